"""DPM-Solver and DPM-Solver++, multistep, deterministic and stochastic, orders 1 to 3.

Lu et al. 2022, arXiv:2206.00927 (noise prediction) and arXiv:2211.01095 (data prediction, "++").
"""

import math
from collections.abc import Callable

import numpy as np
import torch

from .noise import (
    clipped_end,
    interpolate,
    respaced,
    spaced_inner,
    timestep_of,
    training_sigmas,
)
from .plan import Evaluation, Plan, row
from .predict import clean_from, input_scale, noise_from, threshold_of
from .request import Request
from .solver_config import DPMSolverConfig, EDMDPMSolverConfig, SinglestepConfig

_FEW_STEPS = 15  # below this the last steps may be taken at a lower order


def plan(config: DPMSolverConfig, request: Request) -> Plan:
    timesteps, sigmas = _schedule(config, request)
    n = len(timesteps)
    begin = request.begin(timesteps, config)

    def evaluation(i: int) -> Evaluation:
        order = order_at(config, i, n, begin)
        return _evaluation(config, timesteps[i], sigmas[max(i - 2, 0) : i + 2], order)

    return Plan(
        sampler=f"dpmpp_2m{'_sde' * config.stochastic}{'_karras' * bool(config.use_karras_sigmas)}",
        evaluations=tuple(evaluation(i) for i in range(begin, n)),
        init_noise_sigma=1.0,
        begin=begin,
        threshold=threshold_of(config),
        noise_dtype=torch.float32 if config.stochastic else None,
    )


def order_at(config: DPMSolverConfig | EDMDPMSolverConfig, i: int, n: int, begin: int) -> int:
    """The order of step i of n, in a run that begins with step `begin`."""
    few = config.lower_order_final and n < _FEW_STEPS
    if i == n - 1 and (config.euler_at_final or few or config.final_sigmas_type == "zero"):
        return 1
    most = 2 if i == n - 2 and few else 3
    return min(config.solver_order, i - begin + 1, most)


def _schedule(config: DPMSolverConfig, request: Request) -> tuple[list[int], list[float]]:
    """Timesteps and, one longer, sigmas."""
    train = training_sigmas(config)
    log_sigmas = np.log(train)
    n = request.steps
    timesteps = request.own_timesteps()
    chosen = respaced(config, float(train[0]), float(train[-1]), n)
    if config.use_lu_lambdas:
        chosen = np.exp(np.linspace(0, 1, n) * (log_sigmas[0] - log_sigmas[-1]) + log_sigmas[-1])
    if chosen is not None:
        request.refuse_own(timesteps=True)
        sigmas = chosen
        timesteps = np.array([timestep_of(s, log_sigmas) for s in sigmas])
        rounded = config.use_karras_sigmas or config.use_lu_lambdas
        if rounded and config.beta_schedule != "squaredcos_cap_v2":
            timesteps = timesteps.round()
    else:
        if timesteps is None:
            timesteps = spaced_inner(config, n, clipped_end(config))
        sigmas = interpolate(timesteps, train)
    last = float(train[0]) if config.final_sigmas_type == "sigma_min" else 0.0
    sigmas = sigmas.astype(np.float32).astype(np.float64).tolist()
    return timesteps.astype(np.int64).tolist(), [*sigmas, last]


def split(sigma: float) -> tuple[float, float]:
    """(alpha, sigma) with squares that add up to 1, for a sigma relative to the signal."""
    return input_scale(sigma), sigma * input_scale(sigma)


def phi(k: int, z: float) -> float:
    """phi_k(z) = integral over [0, 1] of e^((1-u) z) u^(k-1) / (k-1)!; phi_0 = exp.

    (e^z - 1) / z for k = 1 and so on; by its series near 0, where the quotients cancel.
    """
    if abs(z) < 1:
        term, total = 1 / math.factorial(k), 0.0
        for j in range(1, 20):
            total += term
            term *= z / (k + j)
        return total
    if k == 0:
        return math.exp(z)
    if k == 1:
        return math.expm1(z) / z
    return (phi(k - 1, z) - 1 / math.factorial(k - 1)) / z


def _evaluation(config: DPMSolverConfig, t: int, sigmas: list[float], order: int) -> Evaluation:
    """sigmas: of up to two evaluations before, of this one and of the next."""
    *_, here, after = sigmas
    alpha, sigma = split(here)
    convert = noise_from if config.predicts_noise else clean_from
    p, q = convert(config.prediction_type, alpha, sigma)
    on_x, weights, on_noise = update(config, here, after, order)
    ages = by_age(weights, sigmas)
    return Evaluation(
        timestep=t,
        level=(alpha, sigma),
        draws_noise=config.stochastic,
        row=row(
            p=p,
            q=q,
            x_x=on_x,
            x_noise=on_noise,
            **dict(zip(("x_d", "x_d1", "x_d2"), ages, strict=False)),
        ),
    )


def update(
    config: DPMSolverConfig | SinglestepConfig | EDMDPMSolverConfig,
    here: float,
    after: float,
    order: int,
    parts: Callable[[float], tuple[float, float]] = split,
) -> tuple[float, list[float], float]:
    """Coefficients of x, of D's differences of order 0, 1..., and of the noise.

    here, after: sigmas of the step's ends.  parts: (alpha, sigma) of x = alpha clean + sigma noise
    for a sigma relative to the signal.
    """
    h = math.log(here / after) if after else math.inf  # the step in lambda
    (alpha_here, sigma_here), (alpha, sigma) = parts(here), parts(after)
    on_noise = 0.0
    if config.predicts_noise:
        on_x, scale, z = alpha / alpha_here, -sigma, h
        if config.stochastic:
            scale *= 2
            on_noise = sigma * math.sqrt(math.expm1(2 * h))
    else:
        on_x, scale, z = sigma / sigma_here, -alpha, -h
        if config.stochastic:
            z = -2 * h
            on_x *= after / here
            on_noise = sigma * math.sqrt(-math.expm1(z))
    weights = [scale * math.expm1(z)]
    if order == 2 and config.solver_type == "midpoint":
        weights.append(weights[0] / 2)
    elif order > 1:
        weights.append(scale * z * phi(2, z))
    if order == 3:
        # diffusers' third stochastic term has phi_2 + 1/2 where the series has z phi_3, and does
        # not vanish with h; kept, so that pictures agree.
        weights.append(scale * (phi(2, z) + 0.5 if config.stochastic else z * phi(3, z)))
    return on_x, weights, on_noise


def by_age(weights: list[float], sigmas: list[float]) -> tuple[float, ...]:
    """Coefficients of D, d1, d2 from those of D's backward differences.

    With h the coming step in lambda and h0, h1 the steps before: a = h / h0 (D - d1),
    b = h / h1 (d1 - d2); the first difference is a at order 2 and a + h0 / (h0 + h1) (a - b) at
    order 3, the second h / (h0 + h1) (a - b).
    """
    if len(weights) == 1:
        return (weights[0],)
    after, here, *before = sigmas[::-1]
    h, h0 = math.log(here / after), math.log(before[0] / here)
    if len(weights) == 2:
        first = weights[1] * h / h0
        return weights[0] + first, -first
    h1 = math.log(before[1] / before[0])
    apart = (weights[1] * h0 + weights[2] * h) / (h0 + h1)
    a, b = (weights[1] + apart) * h / h0, -apart * h / h1
    return weights[0] + a, b - a, -b
