"""Euler steps in sigma, plain and ancestral. Karras et al. 2022, arXiv:2206.00364, algorithm 1;
the ancestral step is k-diffusion's (Crowson 2022)."""

import math

import numpy as np
import torch

from .config import EulerAncestralConfig, EulerConfig, SpacedConfig
from .noise import interpolate, respaced, spaced, timestep_of, training_sigmas
from .plan import Evaluation, Plan, row
from .predict import clean_from_scaled, input_scale
from .request import Request


def plan(config: EulerConfig, request: Request) -> Plan:
    train = training_sigmas(config)
    if request.sigmas is None:
        timesteps, sigmas = _schedule(config, request, train)
    else:
        sigmas = np.array(request.sigmas, dtype=np.float32)
        log_sigmas = np.log(train)
        timesteps = np.array([timestep_of(s, log_sigmas) for s in sigmas[:-1]])
    if config.timestep_type == "continuous" and config.prediction_type == "v_prediction":
        request.refuse_own(timesteps=True)
        # One at a time, as a vectorised log may round otherwise.
        timesteps = np.array([(0.25 * torch.tensor(s).log()).item() for s in sigmas[:-1]])
    timesteps = timesteps.astype(np.float32).tolist()
    sigmas = sigmas.astype(np.float64).tolist()
    steps = list(zip(timesteps, sigmas, sigmas[1:], strict=False))
    begin = request.begin([t for t, *_ in steps], config)
    return Plan(
        sampler="euler",
        evaluations=tuple(_evaluation(config, *step) for step in steps[begin:]),
        init_noise_sigma=init_noise_sigma(config, max(sigmas)),
        begin=begin,
    )


def init_noise_sigma(config: SpacedConfig, sigma_max: float) -> float:
    """The spread of a run's first sample."""
    if config.timestep_spacing == "leading":
        return math.sqrt(sigma_max**2 + 1)
    return sigma_max


def _schedule(
    config: EulerConfig, request: Request, train: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Timesteps and, one longer, float32 sigmas."""
    n = request.steps
    if request.timesteps is not None:
        timesteps = np.array(request.timesteps, dtype=np.float32)
    else:
        timesteps = spaced(config, n, np.float32)
    if config.interpolation_type == "linear":
        sigmas = interpolate(timesteps, train)
    else:
        first, last = (float(np.log(train[i])) for i in (-1, 0))
        sigmas = torch.linspace(first, last, n + 1).exp().numpy()
    low = float(sigmas[-1]) if config.sigma_min is None else config.sigma_min
    high = float(sigmas[0]) if config.sigma_max is None else config.sigma_max
    chosen = respaced(config, low, high, n)
    if chosen is not None:
        request.refuse_own(timesteps=True)
        log_sigmas = np.log(train)
        sigmas = chosen
        timesteps = np.array([timestep_of(s, log_sigmas) for s in sigmas])
    end = train[0] if config.final_sigmas_type == "sigma_min" else 0.0
    return timesteps, np.concatenate([sigmas, [end]]).astype(np.float32)


def _evaluation(config: EulerConfig, t: float, sigma: float, sigma_next: float) -> Evaluation:
    p, q = clean_from_scaled(config.prediction_type, sigma)
    ratio = sigma_next / sigma
    return Evaluation(
        timestep=t,
        level=(1.0, sigma),
        in_scale=input_scale(sigma),
        row=row(p=p, q=q, x_x=ratio, x_d=1 - ratio),
    )


def plan_ancestral(config: EulerAncestralConfig, request: Request) -> Plan:
    timesteps = spaced(config, request.steps, np.float32)
    spread = interpolate(timesteps, training_sigmas(config)).astype(np.float32)
    sigmas = [*spread.astype(np.float64).tolist(), 0.0]
    steps = list(zip(timesteps.tolist(), sigmas, sigmas[1:], strict=False))
    begin = request.begin([t for t, *_ in steps], config)
    return Plan(
        sampler="euler_ancestral",
        evaluations=tuple(_ancestral(config, *step) for step in steps[begin:]),
        init_noise_sigma=init_noise_sigma(config, max(sigmas)),
        begin=begin,
    )


def _ancestral(
    config: EulerAncestralConfig, t: float, sigma: float, sigma_next: float
) -> Evaluation:
    p, q = clean_from_scaled(config.prediction_type, sigma)
    # Down to sigma_next^2 / sigma, then up to sigma_next with fresh noise.
    ratio = (sigma_next / sigma) ** 2
    return Evaluation(
        timestep=t,
        level=(1.0, sigma),
        in_scale=input_scale(sigma),
        draws_noise=True,
        row=row(p=p, q=q, x_x=ratio, x_d=1 - ratio, x_noise=sigma_next * math.sqrt(1 - ratio)),
    )
