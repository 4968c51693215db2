"""Linear multistep (Adams & Bashforth) in sigma, order 4, as k-diffusion's sampler (Crowson 2022).

x' = x + the integral over [sigma, sigma'] of the polynomial through the last slopes.
"""

import numpy as np

from .config import LMSConfig
from .euler import init_noise_sigma
from .noise import spaced_sigmas
from .plan import Evaluation, Plan, row
from .predict import input_scale, slope_from_scaled
from .request import Request

_ORDER = 4


def plan(config: LMSConfig, request: Request) -> Plan:
    timesteps, spread = spaced_sigmas(config, request.steps)
    times = timesteps.astype(np.float32).tolist()
    sigmas = [*spread.astype(np.float32).astype(np.float64).tolist(), 0.0]
    begin = request.begin(times, config)

    def evaluation(i: int) -> Evaluation:
        # diffusers' order counts from the whole run's beginning, also where the run begins later
        # and slopes are missing: kept, so that pictures of image-to-image agree.
        weights = adams_bashforth(sigmas[i + 1], sigmas[max(i - _ORDER + 1, 0) : i + 1])
        seen = weights[: i - begin + 1]
        p, q = slope_from_scaled(config.prediction_type, sigmas[i])
        slopes = dict(zip(("x_d", "x_d1", "x_d2", "x_d3"), seen, strict=False))
        return Evaluation(
            timestep=times[i],
            level=(1.0, sigmas[i]),
            in_scale=input_scale(sigmas[i]),
            row=row(p=p, q=q, x_x=1.0, **slopes),
        )

    return Plan(
        sampler="lms",
        evaluations=tuple(evaluation(i) for i in range(begin, len(times))),
        init_noise_sigma=init_noise_sigma(config, max(sigmas)),
        begin=begin,
    )


def adams_bashforth(after: float, past: list[float]) -> list[float]:
    """Weights of the slopes at `past` (newest last), newest first, of a step to `after`.

    The integrals of the Lagrange polynomials, from past[-1] to after.
    """
    nodes = np.array(past[::-1]) - past[-1]  # from where the step begins, against cancellation
    weights = []
    for k, node in enumerate(nodes):
        others = np.delete(nodes, k)
        if len(others) and np.min(np.abs(node - others)) == 0:
            raise ZeroDivisionError("two slopes at one sigma")
        integral = np.polyint(np.atleast_1d(np.poly(others)) / np.prod(node - others))
        weights.append(float(np.polyval(integral, after - past[-1])))
    return weights
