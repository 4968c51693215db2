"""How gradients that guide pictures enter their updates.

A sampler whose update is a mean and noise of a variance (DDPM) has its mean moved by variance *
gradient: Dhariwal & Nichol 2021, arXiv:2105.05233, algorithm 1. Every other sampler is told another
prediction of the noise, e - sigma * gradient with sigma = sqrt(1 - abar): algorithm 2, which is
right for any update that is made of predictions.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..finite import all_finite, kind, not_finite
from ..schedules.plan import Rows, State
from ..schedules.rows import AT, accumulator, parted
from .gradients import Prediction
from .job import DenoisingJob


class Moves:
    """Those of the jobs of one evaluation; found: the gradient [1, C, h, w] by picture."""

    def __init__(self, jobs: Sequence[DenoisingJob], found: dict[int, Tensor]):
        self._jobs, self._found = jobs, found

    @classmethod
    def of(cls, jobs: Sequence[DenoisingJob], x: Tensor) -> "Moves | None":
        """x: [N, ...], what the network is given; None where no gradient guides a job."""
        found = {
            k: job.gradients.gradient(x[k : k + 1], job)
            for k, job in enumerate(jobs)
            if job.gradients is not None
        }
        return cls(jobs, found) if found else None

    def set_errors(self) -> None:
        """Sets the error of jobs whose gradient is not finite."""
        for k, g in self._found.items():
            job = self._jobs[k]
            if not all_finite(g) and job.gradients is not None:
                where = f"picture {job.index} at step {job.position}"
                part = f"{job.source}: the gradient of {job.gradients.name}"
                job.error = not_finite(part, kind(g), where, g.dtype)

    def of_output(self, out: Tensor) -> Tensor:
        """The network's output, [N or 2 N, C or 2 C, ...], for the samplers that are told one."""
        new = out.clone()
        for k, g in self._found.items():
            job, channels = self._jobs[k], g.shape[1]
            at = job.plan.evaluations[job.position]
            if at.variance is not None or job.gradients is None:
                continue
            factor = output_factor(job.gradients.prediction, *at.level)
            # Of guided pictures to both halves: their guided output has it once then.
            for row in range(k, len(new), len(self._jobs)):
                wide = new[row, :channels].to(accumulator(new))
                new[row, :channels] = (wide + factor * g[0].to(wide)).to(new.dtype)
        return new

    def of_mean(self, state: State, out: Tensor, rows: Rows) -> State:
        """The state after the update, for the samplers whose mean is moved. out: the output."""
        x = state.x.clone()
        variance = parted(out, x, rows)[1]
        for k, g in self._found.items():
            job = self._jobs[k]
            at = job.plan.evaluations[job.position]
            if at.variance is None:
                continue
            own: float | Tensor = at.variance
            if variance is not None and (at.row[AT["v_1"]] or at.row[AT["v_v"]]):
                own = _predicted(variance[k], at.row)
            wide = x[k].to(accumulator(x))
            x[k] = (wide + own * g[0].to(wide)).to(x.dtype)
        return State(x, state.d1, state.d2, state.d3, state.base)


def output_factor(prediction: Prediction, a: float, b: float) -> float:
    """What a gradient counts in a network's output where x = a clean + b noise, so that the noise
    that follows from it is less by sigma * gradient, at the x of variance 1.
    """
    alpha, sigma = a / math.hypot(a, b), b / math.hypot(a, b)
    if prediction == "sample":  # clean = (x - sigma noise) / alpha
        return sigma * sigma / alpha
    # v = (noise - sigma x) / alpha
    return -sigma if prediction == "epsilon" else -sigma / alpha


def _predicted(variance: Tensor, row: np.ndarray) -> Tensor:
    """The noise's variance per pixel, from what the network says of it. On the CPU by NumPy, which
    knows no threads: the same bits on any number of them.
    """
    logarithm = 2 * (float(row[AT["v_1"]]) + float(row[AT["v_v"]]) * variance.double())
    if variance.device.type == "cpu":
        return torch.from_numpy(np.exp(logarithm.numpy()))
    return logarithm.exp()
