"""DPM-Solver-2 in sigma: a step done again with the slope at its middle, plain and ancestral.

Karras et al. 2022, arXiv:2206.00364, algorithm 2; the samplers are k-diffusion's (Crowson 2022).
"""

import math

import numpy as np
import torch
from torch import Tensor

from .config import KDPM2Config
from .euler import init_noise_sigma
from .noise import spaced_sigmas, timestep_of, training_sigmas
from .plan import Evaluation, Plan, row
from .predict import input_scale, slope_from_scaled
from .request import Request


def plan(config: KDPM2Config, request: Request) -> Plan:
    return _plan(config, request, ancestral=False)


def plan_ancestral(config: KDPM2Config, request: Request) -> Plan:
    return _plan(config, request, ancestral=True)


def _plan(config: KDPM2Config, request: Request, ancestral: bool) -> Plan:
    timesteps, spread = spaced_sigmas(config, request.steps)
    if config.use_karras_sigmas:
        timesteps = timesteps.round()
    sigmas = [*spread.astype(np.float32).tolist(), 0.0]
    steps = list(zip(timesteps.tolist(), sigmas, sigmas[1:], strict=False))
    middles = _middles(torch.tensor(sigmas), ancestral)
    log_sigmas = np.log(training_sigmas(config))
    whole = []
    for k, (t, sigma, after) in enumerate(steps):
        if k + 1 == len(steps):
            whole.append(_first(config, t, sigma, after))
            break
        middle = float(middles[k])
        t_middle = float(timestep_of(middles[k].numpy()[()], log_sigmas, narrow=True))
        whole.append(_first(config, t, sigma, middle))
        second = _second(config, t_middle, sigma, middle, after, ancestral)
        whole.append(second)
    begin = request.begin([e.timestep for e in whole], config, order=2)
    return Plan(
        sampler="dpm2_ancestral" if ancestral else "dpm2",
        evaluations=tuple(whole[begin:]),
        init_noise_sigma=init_noise_sigma(config, max(sigmas)),
        begin=begin,
        order=2,
    )


def _middles(sigmas: Tensor, ancestral: bool) -> Tensor:
    """[steps - 1] float32: the sigma halfway, in its logarithm, to where the step's slope leads.

    In float32 as timesteps are computed from it.
    """
    here, after = sigmas[:-2], sigmas[1:-1]
    if ancestral:
        up = (after**2 * (here**2 - after**2) / here**2) ** 0.5
        down = (after**2 - up**2) ** 0.5
        halfway = here.log().lerp(down.log(), 0.5).exp()
        # It is `after` but for rounding, which may leave nothing of it between very unlike sigmas.
        return torch.where(halfway > 0, halfway, after)
    return after.log().lerp(here.log(), 0.5).exp()


def _first(config: KDPM2Config, t: float, sigma: float, middle: float) -> Evaluation:
    """An Euler step to the middle that remembers where it began; the last one goes to the end."""
    p, q = slope_from_scaled(config.prediction_type, sigma)
    return Evaluation(
        timestep=t,
        level=(1.0, sigma),
        in_scale=input_scale(sigma),
        row=row(p=p, q=q, x_x=1.0, x_d=middle - sigma, y_x=1.0),
    )


def _second(
    config: KDPM2Config, t: float, sigma: float, middle: float, after: float, ancestral: bool
) -> Evaluation:
    """The step from its beginning with the slope at its middle.

    Ancestral: down to after^2 / sigma, then up to `after` with fresh noise.
    """
    p, q = slope_from_scaled(config.prediction_type, middle)
    ratio = after / sigma
    down, up = (after * ratio, after * math.sqrt(1 - ratio**2)) if ancestral else (after, 0.0)
    return Evaluation(
        timestep=t,
        level=(1.0, middle),
        # diffusers puts known latents back at the noise of the step's end.
        known_level=(1.0, after),
        in_scale=input_scale(middle),
        draws_noise=ancestral,
        row=row(p=p, q=q, x_base=1.0, x_d=down - sigma, x_noise=up),
    )
