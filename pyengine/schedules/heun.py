"""Heun's method in sigma: two model evaluations a step, one in the last.

Karras et al. 2022, arXiv:2206.00364, algorithm 1.
"""

import numpy as np

from .config import HeunConfig
from .euler import init_noise_sigma
from .noise import spaced_sigmas
from .plan import Evaluation, Plan, row
from .predict import clean_from_scaled, input_scale, limit_of, slope_from_scaled
from .request import Request


def plan(config: HeunConfig, request: Request) -> Plan:
    if config.respaces:
        request.refuse_own(timesteps=True)
    timesteps, sigmas = spaced_sigmas(config, request.steps, own=request.timesteps)
    t = timesteps.astype(np.float32).tolist()
    s = [*sigmas.astype(np.float32).astype(np.float64).tolist(), 0.0]
    whole = []
    for k in range(len(t)):
        whole.append(_first(config, t[k], s[k], s[k + 1]))
        if k + 1 < len(t):
            whole.append(_second(config, t[k + 1], s[k], s[k + 1]))
    begin = request.begin([e.timestep for e in whole], config, order=2)
    return Plan(
        sampler="heun",
        evaluations=tuple(whole[begin:]),
        init_noise_sigma=init_noise_sigma(config, max(s)),
        begin=begin,
        order=2,
    )


def _remembered(config: HeunConfig, sigma: float) -> dict[str, float]:
    """What D is: the slope (x - clean) / sigma, or, where that is to be clipped, the clean sample.

    The slope keeps its digits where sigma is small; the clean sample is what has a limit.
    """
    if config.clip_sample:
        p, q = clean_from_scaled(config.prediction_type, sigma)
        return {"p": p, "q": q, "limit": limit_of(config)}
    p, q = slope_from_scaled(config.prediction_type, sigma)
    return {"p": p, "q": q}


def _slope(config: HeunConfig, sigma: float, weight: float, x: str, d: str) -> dict[str, float]:
    """weight times the slope at sigma, as coefficients of the sample `x` and the output `d`."""
    if config.clip_sample:
        return {x: weight / sigma, d: -weight / sigma}
    return {x: 0.0, d: weight}


def _first(config: HeunConfig, t: float, sigma: float, sigma_next: float) -> Evaluation:
    """An Euler step that remembers where it began."""
    slope = _slope(config, sigma, sigma_next - sigma, "x_x", "x_d")
    return Evaluation(
        timestep=t,
        level=(1.0, sigma),
        in_scale=input_scale(sigma),
        row=row(**_remembered(config, sigma), **{**slope, "x_x": slope["x_x"] + 1}, y_x=1.0),
    )


def _second(config: HeunConfig, t: float, sigma: float, sigma_next: float) -> Evaluation:
    """The step done again from its beginning with the mean of the slopes at both ends."""
    half = (sigma_next - sigma) / 2
    begin = _slope(config, sigma, half, "x_base", "x_d1")
    end = _slope(config, sigma_next, half, "x_x", "x_d")
    return Evaluation(
        timestep=t,
        level=(1.0, sigma_next),
        in_scale=input_scale(sigma_next),
        row=row(
            **_remembered(config, sigma_next), **{**begin, "x_base": begin["x_base"] + 1}, **end
        ),
    )
