"""Heun's method in sigma: two model evaluations a step, one in the last.

Karras et al. 2022, arXiv:2206.00364, algorithm 1.
"""

import numpy as np

from .config import HeunConfig
from .euler import init_noise_sigma
from .noise import interpolate, respaced, spaced, timestep_of, training_sigmas
from .plan import Evaluation, Plan, row
from .predict import clean_from_scaled, input_scale, limit_of
from .request import Request


def plan(config: HeunConfig, request: Request) -> Plan:
    train = training_sigmas(config)
    n = request.steps
    if request.timesteps is not None:
        timesteps = np.array(request.timesteps, dtype=np.float32)
    else:
        timesteps = spaced(config, n, np.float32)
    sigmas = interpolate(timesteps, train)
    chosen = respaced(config, float(sigmas[-1]), float(sigmas[0]), n)
    if chosen is not None:
        request.refuse_own(timesteps=True)
        log_sigmas = np.log(train)
        sigmas = chosen
        timesteps = np.array([timestep_of(s, log_sigmas) for s in sigmas])
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
    p, q = clean_from_scaled(config.prediction_type, sigma)
    if config.clip_sample:
        return {"p": p, "q": q, "limit": limit_of(config)}
    if config.prediction_type == "epsilon":
        return {"p": 0.0, "q": 1.0}
    if config.prediction_type == "v_prediction":
        return {"p": sigma / (sigma**2 + 1), "q": input_scale(sigma)}
    return {"p": 1 / sigma, "q": -1 / sigma}


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
