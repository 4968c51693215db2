"""CFG++ in a sampler's table: guidance whose scale changes from step to step.

Chung et al. 2024, arXiv:2406.08070, algorithm 2: a step predicts the clean sample from the guided
output u + s (c - u), and adds noise again by the unguided one, u. With x' = A clean + B noise, both
linear in the output, that is the ordinary step with another scale in place of s.
"""

import math

from ..errors import RequestError
from .plan import Evaluation, Plan
from .rows import AT

#: Samplers whose update is A clean + B noise of one evaluation, and D the clean sample.
SAMPLERS = ("ddim", "ddpm", "euler", "euler_ancestral")


def check_plus_plus(plan: Plan) -> None:
    """Raises RequestError where a run's updates are not linear in one evaluation's output."""
    if plan.sampler not in SAMPLERS:
        raise RequestError(
            f"guidance_method: 'cfg++' is for {', '.join(SAMPLERS)}, given {plan.sampler}"
        )
    clipped = any(math.isfinite(e.row[AT["limit"]]) for e in plan.evaluations)
    if clipped or plan.threshold is not None:
        raise RequestError(
            "guidance_method: 'cfg++' is for samplers that do not clip the clean sample, given one"
            f" that does ({'thresholding' if plan.threshold else 'clip_sample'} of the scheduler)"
        )


def plus_plus_factor(e: Evaluation) -> float:
    """The scale of the ordinary step by that of CFG++, A b / (A b - B a) at x = a clean + b noise:
    at a given x the output moves the clean sample by -b / a of what it moves the noise.
    """
    a, b = e.level
    on_clean, on_noise = _updated(e)
    return on_clean * b / (on_clean * b - on_noise * a)


def _updated(e: Evaluation) -> tuple[float, float]:
    """(A, B) of x' = A clean + B noise. D = p x + q m is the clean sample, which says what output m
    goes with a clean sample and a noise.
    """
    a, b = e.level
    p, q, x_x, x_m, x_d = (float(e.row[AT[name]]) for name in ("p", "q", "x_x", "x_m", "x_d"))
    return x_x * a + x_m * (1 - p * a) / q + x_d, x_x * b - x_m * p * b / q
