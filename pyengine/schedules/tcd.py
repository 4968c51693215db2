"""Trajectory consistency distillation. Zheng et al. 2024, arXiv:2402.19159, algorithm 4.

A step to timestep s below the next one, by the predicted clean sample and noise, then noise back
up to the next one. eta (the paper's gamma) says how far below: s = (1 - eta) times the next.
"""

import math

import numpy as np

from ..errors import RequestError
from .config import LCMConfig
from .lcm import distilled, pick, visits
from .noise import alphas_cumprod
from .plan import Evaluation, Plan, row
from .predict import clean_from, noise_from
from .request import Request


def plan(config: LCMConfig, request: Request) -> Plan:
    a_bar = alphas_cumprod(config).double().tolist()
    steps, begin = visits(config, request, _timesteps)

    def evaluation(t: int, after: int | None) -> Evaluation:
        # In float32, as a rounding error below a whole number is one timestep less.
        share = np.float32(1 - request.eta)
        s = int(np.floor(share * np.float32(after or 0)))
        up = None if after is None or request.eta == 0 else a_bar[after]
        return _evaluation(config, t, a_bar[t], a_bar[s], up)

    return Plan(
        sampler="tcd",
        evaluations=tuple(evaluation(t, after) for t, after in steps),
        init_noise_sigma=1.0,
        begin=begin,
    )


def _timesteps(config: LCMConfig, request: Request) -> np.ndarray:
    """[steps] int64. With original_inference_steps in the call: over all training timesteps."""
    original = request.original_inference_steps
    if original is None:
        return distilled(config, request)
    count = int(config.num_train_timesteps * (request.strength if request.thins else 1.0))
    most = min(count, original)
    if request.steps > most:
        raise RequestError(
            f"num_inference_steps: TCD expects at most original_inference_steps = {original} "
            f"and num_train_timesteps x strength = {count}, got {request.steps}"
        )
    return pick(np.arange(count)[::-1], request.steps)


def _evaluation(
    config: LCMConfig, t: int, a: float, a_s: float, a_next: float | None
) -> Evaluation:
    """a, a_s, a_next: the signal shares at t, at s, and where noise leads back up to, or None."""
    alpha, sigma = math.sqrt(a), math.sqrt(1 - a)
    p, q = clean_from(config.prediction_type, alpha, sigma)
    noise_x, noise_m = noise_from(config.prediction_type, alpha, sigma)
    kept = 1.0 if a_next is None else a_next / a_s  # of the variance
    on_clean, on_noise = math.sqrt(kept * a_s), math.sqrt(kept * (1 - a_s))
    return Evaluation(
        timestep=t,
        level=(alpha, sigma),
        draws_noise=a_next is not None,
        row=row(
            p=p,
            q=q,
            x_d=on_clean,
            x_x=on_noise * noise_x,
            x_m=on_noise * noise_m,
            x_noise=math.sqrt(1 - kept),
        ),
    )
