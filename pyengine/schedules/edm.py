"""Samplers over sigmas by formula, for models with EDM's preconditioning (Playground 2.5).

Karras et al. 2022, arXiv:2206.00364: table 1 (preconditioning), eq. 5 (sigmas), algorithm 1
(Euler); DPM-Solver++ over the same x = clean + sigma noise: Lu et al. 2022, arXiv:2211.01095.
"""

import math

import torch
from torch import Tensor

from .dpmsolver import by_age, order_at, update
from .plan import Evaluation, Plan, row
from .predict import threshold_of
from .request import Request
from .solver_config import EDMDPMSolverConfig, EDMEulerConfig


def _sigmas(config: EDMEulerConfig | EDMDPMSolverConfig, ramp: Tensor) -> Tensor:
    """float32 sigmas for a ramp of 0 to 1; computed in the ramp's dtype, as diffusers does."""
    low, high = config.sigma_min, config.sigma_max
    if config.sigma_schedule == "exponential":
        return torch.linspace(math.log(low), math.log(high), len(ramp)).exp().flip(0)
    low, high = low ** (1 / config.rho), high ** (1 / config.rho)
    spread: Tensor = (high + ramp * (low - high)) ** config.rho
    return spread.float()


def _evaluation(
    config: EDMEulerConfig | EDMDPMSolverConfig,
    t: float,
    sigma: float,
    draws_noise: bool = False,
    **coefficients: float,
) -> Evaluation:
    """D is the clean sample: c_skip x + c_out m."""
    data = config.sigma_data
    p = data**2 / (sigma**2 + data**2)
    q = sigma * data / math.sqrt(sigma**2 + data**2)
    return Evaluation(
        timestep=t,
        level=(1.0, sigma),
        in_scale=1 / math.sqrt(sigma**2 + data**2),
        draws_noise=draws_noise,
        row=row(p=p, q=-q if config.prediction_type == "v_prediction" else q, **coefficients),
    )


def plan(config: EDMEulerConfig, request: Request) -> Plan:
    spread = _sigmas(config, torch.linspace(0, 1, request.steps, dtype=torch.float64))
    times = (0.25 * torch.log(spread)).tolist()
    sigmas = spread.double().tolist()
    sigmas.append(0.0 if config.final_sigmas_type == "zero" else sigmas[-1])
    begin = request.begin(times, config)

    def evaluation(i: int) -> Evaluation:
        ratio = sigmas[i + 1] / sigmas[i]
        return _evaluation(config, times[i], sigmas[i], x_x=ratio, x_d=1 - ratio)

    return Plan(
        sampler="edm_euler",
        evaluations=tuple(evaluation(i) for i in range(begin, len(times))),
        init_noise_sigma=math.sqrt(config.sigma_max**2 + 1),
        begin=begin,
    )


def plan_dpmsolver(config: EDMDPMSolverConfig, request: Request) -> Plan:
    spread = _sigmas(config, torch.linspace(0, 1, request.steps))
    times = (0.25 * torch.log(spread)).tolist()
    last = torch.tensor(0.0 if config.final_sigmas_type == "zero" else config.sigma_min)
    sigmas = [*spread.double().tolist(), float(last)]
    n = len(times)
    begin = request.begin(times, config)

    def evaluation(i: int) -> Evaluation:
        past = sigmas[max(i - 2, 0) : i + 2]
        order = order_at(config, i, n, begin)
        here, after = past[-2:]
        on_x, weights, on_noise = update(config, here, after, order, lambda sigma: (1.0, sigma))
        outputs = dict(zip(("x_d", "x_d1", "x_d2"), by_age(weights, past), strict=False))
        return _evaluation(
            config, times[i], sigmas[i], config.stochastic, x_x=on_x, x_noise=on_noise, **outputs
        )

    return Plan(
        sampler="edm_dpmpp_2m",
        evaluations=tuple(evaluation(i) for i in range(begin, n)),
        init_noise_sigma=math.sqrt(config.sigma_max**2 + 1),
        begin=begin,
        threshold=threshold_of(config),
    )
