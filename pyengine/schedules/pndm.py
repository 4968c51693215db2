"""PNDM. Liu et al. 2022, arXiv:2202.09778, eqs. 9 (transfer), 12 (PLMS), 13 (Runge-Kutta).

Averages the model's outputs, before they are turned into noise. Without the warm-up
(skip_prk_steps, PLMS) the second evaluation repeats the first step with the mean of both outputs;
that output is not remembered, so the first one is kept in the state's base until it is the third
back. With it the first three steps are Runge-Kutta's, four evaluations each.
"""

import math
from itertools import pairwise

import numpy as np

from ..errors import RequestError
from .config import PNDMConfig
from .noise import alphas_cumprod, check_range, spaced
from .plan import Evaluation, Plan, row
from .request import Request

# Weights of the outputs by age, newest first. Adams & Bashforth.
SECOND = (3 / 2, -1 / 2)
THIRD = (23 / 12, -16 / 12, 5 / 12)
FOURTH = (55 / 24, -59 / 24, 37 / 24, -9 / 24)
# Where the outputs are found, newest first, and what is kept in base, by evaluation.
_WHERE: tuple[tuple[dict[str, float], dict[str, float]], ...] = (
    ({"d": 1.0}, {"y_x": 1.0}),  # base: the sample, to begin again from
    ({"d": 0.5, "d1": 0.5}, {"y_d1": 1.0}),  # base: the first output, from here on
    (dict(zip(("d", "base"), SECOND, strict=True)), {"y_base": 1.0}),
    (dict(zip(("d", "d1", "base"), THIRD, strict=True)), {"y_base": 1.0}),
    (dict(zip(("d", "d1", "d2", "base"), FOURTH, strict=True)), {}),
    (dict(zip(("d", "d1", "d2", "d3"), FOURTH, strict=True)), {}),
)
_RUNGE_KUTTA = 12  # evaluations of the warm-up: three steps of four


class _Levels:
    """The signal share at each timestep, and the step between two of them."""

    def __init__(self, config: PNDMConfig):
        self.config = config
        self.a_bar = alphas_cumprod(config).double().tolist()
        self.final = 1.0 if config.set_alpha_to_one else self.a_bar[0]

    def at(self, t: int) -> float:
        return self.a_bar[t] if t >= 0 else self.final

    def move(self, start: int, end: int) -> tuple[float, float]:
        """Coefficients of the sample at `start` and of the model's output, for that at `end`."""
        check_range(np.array([start]), self.config)
        a, a_next = self.at(start), self.at(end)
        on_x = math.sqrt(a_next / a)
        on_noise = -(a_next - a) / (a * math.sqrt(1 - a_next) + math.sqrt(a * (1 - a) * a_next))
        on_output = on_noise
        if self.config.prediction_type == "v_prediction":
            on_x += on_noise * math.sqrt(1 - a)
            on_output *= math.sqrt(a)
        return on_x, on_output

    def evaluation(
        self, t: int, coefficients: dict[str, float], remembers: bool = True
    ) -> Evaluation:
        a = self.a_bar[t]
        level = (math.sqrt(a), math.sqrt(1 - a))
        return Evaluation(t, row(q=1.0, **coefficients), level, remembers=remembers)


def plan(config: PNDMConfig, request: Request) -> Plan:
    levels = _Levels(config)
    stride = config.num_train_timesteps // request.steps
    steps = spaced(config, request.steps)
    if config.skip_prk_steps:
        visited = [*steps[:1], *steps[1:2], *steps[1:]]  # the second one twice
    else:
        visited = _warm_up(config, steps, stride // 2)
    check_range(np.array(visited), config)
    begin = request.begin(visited, config)
    run = [int(t) for t in visited[begin:]]
    if config.skip_prk_steps:
        evaluations = [_multistep(levels, i, t, stride) for i, t in enumerate(run)]
    else:
        # diffusers counts from where the run begins, but takes every step of the warm-up from where
        # the whole one would: kept, so that pictures of image-to-image agree.
        starts = [int(t) for t in visited[:_RUNGE_KUTTA:4]]
        evaluations = [
            e
            for start, at in zip(starts, range(0, len(run), 4), strict=False)
            for e in _runge_kutta(levels, start, run[at : at + 4], stride // 2)
        ]
        rest = run[_RUNGE_KUTTA:]
        evaluations += [_multistep(levels, len(_WHERE) - 1, t, stride) for t in rest]
    return Plan(
        sampler="pndm",
        evaluations=tuple(evaluations),
        init_noise_sigma=1.0,
        begin=begin,
        extra=0 if request.denoising_start else len(visited) - len(steps),
    )


def _warm_up(config: PNDMConfig, steps: np.ndarray, half: int) -> list[int]:
    """The timesteps; the first three steps are visited at their begin, twice in the middle, at
    the end.
    """
    if len(steps) < 4:
        raise RequestError(
            f"num_inference_steps: pndm with its warm-up (skip_prk_steps false) takes at least 4, "
            f"got {len(steps)}"
        )
    quarters = [(t, low + half, low + half, low) for t, low in pairwise(steps[:4])]
    return [*(t for quarter in quarters for t in quarter), *steps[3:]]


def _multistep(levels: _Levels, i: int, t: int, stride: int) -> Evaluation:
    """Evaluation i of PLMS; the second is at the end of its step, all others at the beginning."""
    start = t + stride if i == 1 else t
    on_x, on_output = levels.move(start, start - stride)
    weights, kept = _WHERE[min(i, len(_WHERE) - 1)]
    begins_at = "x_base" if i == 1 else "x_x"
    outputs = {f"x_{where}": on_output * weight for where, weight in weights.items()}
    return levels.evaluation(t, {begins_at: on_x, **outputs, **kept})


def _runge_kutta(levels: _Levels, start: int, times: list[int], half: int) -> list[Evaluation]:
    """One step from `start`, or as much of it as there are times; x0 is the sample there.

    Each evaluation gives A x0 + B m with its own A and B; the last one has the mean
    m = (m0 + 2 m1 + 2 m2 + m3) / 6. m0 is remembered, for PLMS. Of m1 and m2 the sample that they
    led to is all that is there: m1 = (x - A1 x0) / B1, and as base holds x0 until the third
    evaluation, this leaves there what the fourth will need of x0 and m1.
    """
    ends = [t - (0 if k % 2 else half) for k, t in enumerate(times)]
    moves = [levels.move(start, end) for end in ends]
    rows = [{"x_x" if k == 0 else "x_base": a, "x_d": b} for k, (a, b) in enumerate(moves)]
    for k, name in ((0, "y_x"), (1, "y_base")):
        if k < len(rows):
            rows[k][name] = 1.0
    if len(rows) == 4:
        (_, _), (a1, b1), (a2, b2), (a3, b3) = moves
        rows[2] |= {"y_x": b3 / (3 * b1), "y_base": a3 - b3 / 3 * (a1 / b1 + a2 / b2)}
        rows[3] = {"x_x": b3 / (3 * b2), "x_d": b3 / 6, "x_d1": b3 / 6, "x_base": 1.0}
    return [
        levels.evaluation(t, row, remembers=k == 0)
        for k, (t, row) in enumerate(zip(times, rows, strict=True))
    ]
