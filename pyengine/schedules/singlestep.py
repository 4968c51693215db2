"""DPM-Solver and DPM-Solver++, singlestep: steps of one to three evaluations from one sample.

Lu et al. 2022, arXiv:2206.00927, algorithms 1 and 2, and arXiv:2211.01095, algorithm 1. Every
evaluation stands for a step of diffusers': one of order k goes from the sample of k - 1
evaluations ago, which base holds, with the outputs since.
"""

import math

from .dpmsolver import split, update
from .noise import inner_sigmas, training_sigmas
from .plan import Evaluation, Plan, row
from .predict import clean_from, noise_from, threshold_of
from .request import Request
from .solver_config import SinglestepConfig


def plan(config: SinglestepConfig, request: Request) -> Plan:
    own = request.own_timesteps()
    if config.respaces:
        request.refuse_own(timesteps=True)
    timesteps, inner, _ = inner_sigmas(config, request.steps, own)
    last = 0.0 if config.final_sigmas_type == "zero" else float(training_sigmas(config)[0])
    sigmas = [*inner.astype("float32").astype(float).tolist(), last]
    begin = request.begin(timesteps, config)
    orders = _orders(config, len(timesteps))

    def evaluation(i: int) -> Evaluation:
        order = min(orders[i], i - begin + 1)  # lower where the run begins in the middle of a step
        return _evaluation(config, timesteps[i], sigmas[i - order + 1 : i + 2])

    return Plan(
        sampler="dpmpp_2s",
        evaluations=tuple(evaluation(i) for i in range(begin, len(timesteps))),
        init_noise_sigma=1.0,
        begin=begin,
        threshold=threshold_of(config),
    )


def _orders(config: SinglestepConfig, n: int) -> list[int]:
    """Of n evaluations: 1, 2... up to solver_order, over and over, and lower ones at the end."""
    highest, to_zero = config.solver_order, config.final_sigmas_type == "zero"
    orders = [i % highest + 1 for i in range(n)]
    if to_zero or (config.lower_order_final and n % highest == 0):
        orders[-1] = 1
    return orders


def _evaluation(config: SinglestepConfig, t: int, sigmas: list[float]) -> Evaluation:
    """sigmas: where the step began, of the evaluations since, of this one and of the next."""
    order = len(sigmas) - 1
    start, here, after = sigmas[0], sigmas[-2], sigmas[-1]
    alpha, sigma = split(here)
    convert = noise_from if config.predicts_noise else clean_from
    p, q = convert(config.prediction_type, alpha, sigma)
    on_x, weights, on_noise = update(config, start, after, order)
    outputs = dict(zip(("x_d", "x_d1", "x_d2"), _by_age(config, weights, sigmas), strict=False))
    began = "x" if order == 1 else "base"
    return Evaluation(
        timestep=t,
        level=(alpha, sigma),
        draws_noise=config.stochastic,
        row=row(
            p=p,
            q=q,
            x_noise=on_noise,
            **{f"x_{began}": on_x, f"y_{began}": 1.0},
            **outputs,
        ),
    )


def _by_age(
    config: SinglestepConfig, weights: list[float], sigmas: list[float]
) -> tuple[float, ...]:
    """Coefficients of D, d1, d2 from those of the differences at where the step began.

    With places r in 0..1 of the step in lambda: the first difference is (D - D0) / r at order 2,
    and at order 3 too with "midpoint"; else it and the second are the derivatives of the parabola
    through all three, (r a - s b) / (r - s) and 2 (b - a) / (r - s), with b = (D - D0) / r and
    a = (d1 - D0) / s.
    """
    if len(weights) == 1:
        return (weights[0],)
    start, *_, here, after = sigmas
    h = math.log(start / after)
    r = math.log(start / here) / h
    if len(weights) == 2:
        return weights[1] / r, weights[0] - weights[1] / r
    if config.solver_type == "midpoint":
        return weights[1] / r, 0.0, weights[0] - weights[1] / r
    s = math.log(start / sigmas[1]) / h
    first, second = weights[1] / (r - s), 2 * weights[2] / (r - s)
    on_a, on_b = first * r - second, second - first * s
    return on_b / r, on_a / s, weights[0] - on_a / s - on_b / r
