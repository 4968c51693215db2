"""PNDM without its Runge-Kutta warm-up (PLMS). Liu et al. 2022, arXiv:2202.09778, eqs. 9 and 12.

Averages the model's outputs, before they are turned into noise. The second evaluation repeats the
first step with the mean of both outputs; that output is not remembered, so the first one is kept
in the state's base until it is the third back.
"""

import math

import numpy as np

from .config import PNDMConfig
from .noise import alphas_cumprod, check_range, spaced
from .plan import Evaluation, Plan, row
from .request import Request

# Weights of the outputs by age, newest first. Adams & Bashforth.
_SECOND = (3 / 2, -1 / 2)
_THIRD = (23 / 12, -16 / 12, 5 / 12)
_FOURTH = (55 / 24, -59 / 24, 37 / 24, -9 / 24)
# Where the outputs are found, newest first, and what is kept in base, by evaluation.
_WHERE = (
    ({"d": 1.0}, {"y_x": 1.0}),  # base: the sample, to begin again from
    ({"d": 0.5, "d1": 0.5}, {"y_d1": 1.0}),  # base: the first output, from here on
    (dict(zip(("d", "base"), _SECOND, strict=True)), {"y_base": 1.0}),
    (dict(zip(("d", "d1", "base"), _THIRD, strict=True)), {"y_base": 1.0}),
    (dict(zip(("d", "d1", "d2", "base"), _FOURTH, strict=True)), {}),
    (dict(zip(("d", "d1", "d2", "d3"), _FOURTH, strict=True)), {}),
)


def plan(config: PNDMConfig, request: Request) -> Plan:
    request.refuse_own(timesteps=True, sigmas=True)
    a_bar = alphas_cumprod(config).double().tolist()
    final = 1.0 if config.set_alpha_to_one else a_bar[0]
    stride = config.num_train_timesteps // request.steps
    steps = spaced(config, request.steps)
    steps = np.concatenate([steps[:1], steps[1:2], steps[1:]])  # the second one twice
    check_range(steps, config)

    def level(t: int) -> float:
        return a_bar[t] if t >= 0 else final

    def evaluation(i: int, t: int) -> Evaluation:
        # The second evaluation is at the end of its step, all others at the beginning.
        start = t + stride if i == 1 else t
        check_range(np.array([start]), config)
        return _evaluation(config, i, t, a_bar[t], level(start), level(start - stride))

    return Plan(
        sampler="pndm",
        evaluations=tuple(evaluation(i, int(t)) for i, t in enumerate(request.from_start(steps))),
        init_noise_sigma=1.0,
        num_steps=request.remaining,
        begin=request.skip,
    )


def _evaluation(
    config: PNDMConfig, i: int, t: int, a_here: float, a: float, a_next: float
) -> Evaluation:
    """a_here: the signal share at t; a, a_next: at the step's beginning and end."""
    on_x = math.sqrt(a_next / a)
    on_noise = -(a_next - a) / (a * math.sqrt(1 - a_next) + math.sqrt(a * (1 - a) * a_next))
    on_output = on_noise
    if config.prediction_type == "v_prediction":
        on_x += on_noise * math.sqrt(1 - a)
        on_output *= math.sqrt(a)
    weights, kept = _WHERE[min(i, 5)]
    begins_at = "x_base" if i == 1 else "x_x"
    outputs = {f"x_{where}": on_output * weight for where, weight in weights.items()}
    return Evaluation(
        timestep=t,
        level=(math.sqrt(a_here), math.sqrt(1 - a_here)),
        row=row(q=1.0, **{begins_at: on_x}, **outputs, **kept),
    )
