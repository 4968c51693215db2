"""Samplers written out as their papers have them, and pyengine's tables: the same numbers.

A sampler here is a table, a row of coefficients for each evaluation of the model (plan.describe()
prints it). Each function below is the textbook's loop over the same noise levels; a model of one
line takes the network's place, in float64.

python examples/samplers_as_equations.py
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from pyengine.schedules import Plan, from_config

Equations = Callable[[Plan, Tensor], Tensor]


def predicted_noise(x: Tensor, t: float) -> Tensor:
    """Stands for the network."""
    return torch.sin(3 * x) + 0.3 * x * (t / 1000)


def levels(plan: Plan) -> list[tuple[float, float]]:
    """(alpha, sigma) of x = alpha clean + sigma noise at every evaluation, and at the end."""
    return [*(evaluation.level for evaluation in plan.evaluations), (1.0, 0.0)]


def ddim(plan: Plan, x: Tensor) -> Tensor:
    """Song et al. 2020, arXiv:2010.02502, eq. 12 without noise."""
    at = levels(plan)
    for t, (alpha, sigma), (alpha_next, sigma_next) in zip(
        plan.timesteps, at, at[1:], strict=False
    ):
        noise = predicted_noise(x, t)
        clean = (x - sigma * noise) / alpha
        x = alpha_next * clean + sigma_next * noise
    return x


def euler(plan: Plan, x: Tensor) -> Tensor:
    """Karras et al. 2022, arXiv:2206.00364, algorithm 2 without noise and correction."""
    at = levels(plan)
    for t, (_, sigma), (_, sigma_next) in zip(plan.timesteps, at, at[1:], strict=False):
        slope = predicted_noise(x / math.sqrt(sigma**2 + 1), t)  # dx / dsigma
        x = x + (sigma_next - sigma) * slope
    return x


def heun(plan: Plan, x: Tensor) -> Tensor:
    """The same algorithm with its correction: two evaluations a step, but one in the last."""
    sigmas = [*dict.fromkeys(sigma for _, sigma in levels(plan))]
    times = [*dict.fromkeys(plan.timesteps)]
    for k, t in enumerate(times):
        sigma, sigma_next = sigmas[k], sigmas[k + 1]
        slope = predicted_noise(x / math.sqrt(sigma**2 + 1), t)
        ahead = x + (sigma_next - sigma) * slope
        if k + 1 == len(times):
            return ahead
        slope_there = predicted_noise(ahead / math.sqrt(sigma_next**2 + 1), times[k + 1])
        x = x + (sigma_next - sigma) * (slope + slope_there) / 2
    return x


def dpmpp_2m(plan: Plan, x: Tensor) -> Tensor:
    """Lu et al. 2022, arXiv:2211.01095, algorithm 2; first and last step of first order."""
    at = levels(plan)
    before: tuple[Tensor, float] | None = None  # the last clean sample and step in lambda
    for t, (alpha, sigma), (alpha_next, sigma_next) in zip(
        plan.timesteps, at, at[1:], strict=False
    ):
        clean = (x - sigma * predicted_noise(x, t)) / alpha
        if sigma_next == 0:
            return clean
        h = math.log(alpha_next / sigma_next) - math.log(alpha / sigma)
        estimate = clean
        if before is not None:
            r = before[1] / h
            estimate = (1 + 1 / (2 * r)) * clean - 1 / (2 * r) * before[0]
        x = sigma_next / sigma * x - alpha_next * math.expm1(-h) * estimate
        before = clean, h
    return x


def by_table(plan: Plan, x: Tensor) -> Tensor:
    """Any sampler: one row after another."""
    state = plan.start(x)
    for i, t in enumerate(plan.timesteps):
        state = plan.step(i, state, predicted_noise(plan.scale_input(i, state.x), t))
    return state.x


SAMPLERS: dict[str, tuple[str, Equations]] = {
    "ddim": ("DDIMScheduler", ddim),
    "euler": ("EulerDiscreteScheduler", euler),
    "heun": ("HeunDiscreteScheduler", heun),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", dpmpp_2m),
}


def largest_difference(name: str, steps: int = 10) -> float:
    """Between the equations and the table, relative to the result's largest number."""
    class_name, equations = SAMPLERS[name]
    own = {"timestep_spacing": "trailing", "clip_sample": False} if name == "ddim" else {}
    plan = from_config({"_class_name": class_name, **own}).plan(steps)
    noise = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    table = by_table(plan, noise)
    written = equations(plan, noise * plan.init_noise_sigma)
    return float((table - written).abs().max() / written.abs().max())


def main() -> None:
    for name in SAMPLERS:
        print(f"{name}: {largest_difference(name):.1e}")


if __name__ == "__main__":
    main()
