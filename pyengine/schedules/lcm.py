"""Latent consistency models. Luo et al. 2023, arXiv:2310.04378, algorithm 3."""

import math
from collections.abc import Callable

import numpy as np

from ..errors import RequestError
from .config import LCMConfig
from .noise import alphas_cumprod, check_range
from .plan import Evaluation, Plan, row
from .predict import clean_from, limit_of, threshold_of
from .request import Request

SIGMA_DATA = 0.5


def plan(config: LCMConfig, request: Request) -> Plan:
    a_bar = alphas_cumprod(config).double().tolist()
    steps, begin = visits(config, request, distilled)
    return Plan(
        sampler="lcm",
        evaluations=tuple(
            _evaluation(config, t, a_bar[t], None if after is None else a_bar[after])
            for t, after in steps
        ),
        init_noise_sigma=1.0,
        begin=begin,
        threshold=threshold_of(config),
    )


def visits(
    config: LCMConfig, request: Request, spread: Callable[[LCMConfig, Request], np.ndarray]
) -> tuple[list[tuple[int, int | None]], int]:
    """(timestep, the next one or None) of the steps that run, and the index of the first of them.

    spread: the timesteps of a run for which the caller gave none.
    """
    visited = request.own_timesteps()
    if visited is None:
        visited = spread(config, request)
    check_range(visited, config)
    steps = [int(t) for t in visited]
    following = [*steps[1:], None]
    begin = request.begin(steps, config)
    return list(zip(steps, following, strict=True))[begin:], begin


def distilled(config: LCMConfig, request: Request) -> np.ndarray:
    """[steps] int64: spread over the timesteps that the model was distilled on.

    Where strength thins them, over its share of them, from the clean end.
    """
    original = request.original_inference_steps or config.original_inference_steps
    train = config.num_train_timesteps
    if original > train:
        raise RequestError(
            f"original_inference_steps: expected at most num_train_timesteps = {train}, "
            f"got {original}"
        )
    count = int(original * (request.strength if request.thins else 1.0))
    if request.steps > count:
        share = f" x strength {request.strength:g}" if request.thins else ""
        raise RequestError(
            f"num_inference_steps: LCM expects at most original_inference_steps{share} = {count}, "
            f"got {request.steps}"
        )
    return pick((np.arange(1, count + 1) * (train // original) - 1)[::-1], request.steps)


def pick(timesteps: np.ndarray, n: int) -> np.ndarray:
    """n of the timesteps, evenly spread, from the first on."""
    places = np.floor(np.linspace(0, len(timesteps), n, endpoint=False))
    return timesteps[places.astype(np.int64)]


def _evaluation(config: LCMConfig, t: int, a: float, a_next: float | None) -> Evaluation:
    """a_next: the signal share to noise the result to, or None in the last step."""
    alpha, sigma = math.sqrt(a), math.sqrt(1 - a)
    p, q = clean_from(config.prediction_type, alpha, sigma)
    # Boundary conditions: Song et al. 2023, arXiv:2303.01469, appendix C.
    scaled = t * config.timestep_scaling
    c_skip = SIGMA_DATA**2 / (scaled**2 + SIGMA_DATA**2)
    c_out = scaled / math.sqrt(scaled**2 + SIGMA_DATA**2)
    keep, noise = (1.0, 0.0) if a_next is None else (math.sqrt(a_next), math.sqrt(1 - a_next))
    return Evaluation(
        timestep=t,
        level=(alpha, sigma),
        draws_noise=a_next is not None,
        row=row(
            p=p,
            q=q,
            limit=limit_of(config),
            x_d=keep * c_out,
            x_x=keep * c_skip,
            x_noise=noise,
        ),
    )
