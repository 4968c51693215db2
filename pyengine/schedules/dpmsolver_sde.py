"""DPM-Solver++ (stochastic), order 2 by a middle evaluation.

Lu et al. 2022, arXiv:2211.01095; as k-diffusion's DPM++ SDE (Crowson 2022). Both halves of a step
see one Brownian path over sigma, so the
second evaluation needs the noise of the first. It is not kept: what the middle sample has beyond
a x + b D is that noise. diffusers draws the path from a seed of its own (torchsde, from the global
generator unless noise_sampler_seed is set); here it comes from each picture's generator, two
normals a step, so pictures have the same distribution and are others.
"""

import math

import numpy as np

from .config import SDEConfig
from .euler import init_noise_sigma
from .noise import spaced_sigmas, timestep_of, training_sigmas
from .plan import Evaluation, Plan, row
from .predict import clean_from_scaled, input_scale
from .request import Request


def plan(config: SDEConfig, request: Request) -> Plan:
    timesteps, spread = spaced_sigmas(config, request.steps, np.float64)
    log_sigmas = np.log(training_sigmas(config))
    log_middles = -np.log(spread)[:-1] + np.diff(-np.log(spread)) * 0.5
    middles = [timestep_of(s, log_sigmas) for s in np.exp(-log_middles)]
    sigmas = [*spread.astype(np.float32).astype(np.float64).tolist(), 0.0]
    whole = []
    for k, t in enumerate(timesteps.tolist()):
        if k + 1 == len(timesteps):
            whole.append(_last(config, t, sigmas[k]))
        else:
            whole += _pair(config, t, float(middles[k]), sigmas[k], sigmas[k + 1])
    begin = request.begin([e.timestep for e in whole], config, order=2)
    return Plan(
        sampler="dpmpp_sde_karras" if config.use_karras_sigmas else "dpmpp_sde",
        evaluations=tuple(whole[begin:]),
        init_noise_sigma=init_noise_sigma(config, max(sigmas)),
        begin=begin,
        order=2,
    )


def _last(config: SDEConfig, t: float, sigma: float) -> Evaluation:
    p, q = clean_from_scaled(config.prediction_type, sigma)
    return Evaluation(t, row(p=p, q=q, x_d=1.0), (1.0, sigma), input_scale(sigma))


def _ancestral(sigma: float, after: float) -> tuple[float, float]:
    """(ratio, up) of x' = ratio x + (1 - ratio) clean + up noise, from sigma to after."""
    ratio = (after / sigma) ** 2
    return ratio, after * math.sqrt(1 - ratio)


def _pair(
    config: SDEConfig, t: float, t_middle: float, sigma: float, after: float
) -> tuple[Evaluation, Evaluation]:
    """A step to the middle, and the whole step with the clean sample predicted there."""
    middle = math.sqrt(sigma * after)
    p, q = clean_from_scaled(config.prediction_type, sigma)
    half, up = _ancestral(sigma, middle)
    first = Evaluation(
        timestep=t,
        level=(1.0, sigma),
        in_scale=input_scale(sigma),
        draws_noise=True,
        row=row(p=p, q=q, x_x=half, x_d=1 - half, x_noise=up, y_x=1.0),
    )
    p, q = clean_from_scaled(config.prediction_type, middle)
    ratio, whole_up = _ancestral(sigma, after)
    share = (sigma - middle) / (sigma - after)  # of the path's variance that lies before the middle
    old = whole_up * math.sqrt(share) / up
    second = Evaluation(
        timestep=t_middle,
        level=(1.0, middle),
        known_level=(1.0, after),  # as KDPM2's
        in_scale=input_scale(middle),
        draws_noise=True,
        row=row(
            p=p,
            q=q,
            x_x=old,
            x_base=ratio - old * half,
            x_d1=-old * (1 - half),
            x_d=1 - ratio,
            x_noise=whole_up * math.sqrt(1 - share),
        ),
    )
    return first, second
