"""unCLIP's sampler: DDPM over cosine betas, at steps that share the ends of training's.

Ramesh et al. 2022, arXiv:2204.06125; the coefficients are DDPM's (see ddpm.py). Pipelines of
diffusers tell this sampler the timestep after each, and none after the last: a plan knows both. It
is not among SAMPLERS: its betas are its own, whatever a checkpoint was trained with.
"""

import numpy as np

from ..errors import RequestError
from ..weights.text import show
from .config import NoiseConfig, UnCLIPConfig
from .ddpm import evaluation
from .noise import alphas_cumprod, betas
from .plan import Plan
from .rows import learned_variance


def plan(config: UnCLIPConfig, num_inference_steps: int) -> Plan:
    """The table of one run; its noise is the sampler's first state.

    num_inference_steps: 2 to num_train_timesteps. Raises RequestError for others.
    """
    most = config.num_train_timesteps
    whole = isinstance(num_inference_steps, int) and not isinstance(num_inference_steps, bool)
    if not whole or not 2 <= num_inference_steps <= most:
        raise RequestError(
            f"num_inference_steps: expected 2 to {most}, given {show(num_inference_steps)}"
        )
    ratio = (most - 1) / (num_inference_steps - 1)
    visited = (np.arange(num_inference_steps) * ratio).round()[::-1].astype(np.int64).tolist()
    noise = NoiseConfig(num_train_timesteps=most, beta_schedule=config.beta_schedule)
    beta = betas(noise)
    a_bar = alphas_cumprod(noise).double().tolist()
    shares = list(zip(beta.double().tolist(), (1.0 - beta).double().tolist(), strict=True))
    evaluations = []
    for t, after in zip(visited, [*visited[1:], visited[-1] - 1], strict=True):
        a_next = a_bar[after] if after >= 0 else 1.0
        # Training's own beta where the step is one of training's: what is left of the rounded
        # products at the last one, 1 - a_bar[0], differs from it in the fourth digit.
        own = shares[t] if after == t - 1 else None
        evaluations.append(evaluation(config, t, a_bar[t], a_next, own))
    return Plan(
        sampler="unclip",
        evaluations=tuple(evaluations),
        init_noise_sigma=1.0,
        variance=learned_variance(config.variance_type),
    )
