"""Improved PNDM: Adams & Bashforth over velocities, as v-diffusion's sampler (Crowson 2022).

Liu et al. 2022, arXiv:2202.09778. For models that are told times of 0 to 1 and predict v (Dance
Diffusion): noise = sigma x + alpha v.
"""

import math

import torch

from .config import IPNDMConfig
from .plan import Evaluation, Plan, row
from .pndm import FOURTH, SECOND, THIRD
from .request import Request

_WEIGHTS = ((1.0,), SECOND, THIRD, FOURTH)


def plan(config: IPNDMConfig, request: Request) -> Plan:
    # In float32, as diffusers' are.
    ramp = torch.linspace(1, 0, request.steps + 1)[:-1]
    beta = torch.sin(torch.cat([ramp, torch.tensor([0.0])]) * math.pi / 2) ** 2
    alpha = (1.0 - beta**2) ** 0.5
    times = (torch.atan2(beta, alpha) / math.pi * 2)[:-1].tolist()
    alphas, sigmas = alpha.double().tolist(), beta.double().tolist()
    begin = request.begin(times, config)
    return Plan(
        sampler="ipndm",
        evaluations=tuple(
            _evaluation(times[i], alphas[i : i + 2], sigmas[i : i + 2], min(i - begin, 3))
            for i in range(begin, len(times))
        ),
        init_noise_sigma=1.0,
        begin=begin,
    )


def _evaluation(t: float, alphas: list[float], sigmas: list[float], past: int) -> Evaluation:
    """past: how many evaluations before are looked back on.

    D = sigma x + alpha m, the noise e; x' = alpha' (x - sigma e) / alpha + sigma' e, with the e of
    several evaluations. What comes from this one's e is written out for x and m, as alpha is 0
    where a run begins.
    """
    (alpha, alpha_after), (sigma, sigma_after) = alphas, sigmas
    newest, *older = _WEIGHTS[past]
    divisor = max(alpha, 1e-8)
    on_e = sigma_after - alpha_after * sigma / divisor
    turned = dict(zip(("x_d1", "x_d2", "x_d3"), (on_e * w for w in older), strict=False))
    return Evaluation(
        timestep=t,
        level=(alpha, sigma),
        row=row(
            p=sigma,
            q=alpha,
            x_x=alpha_after / divisor * (1 - newest * sigma**2) + newest * sigma * sigma_after,
            x_m=newest * alpha * on_e,
            **turned,
        ),
    )
