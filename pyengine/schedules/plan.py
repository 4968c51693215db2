"""A run compiled to a table, and the steps that it drives."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..cuda import to_device
from ..errors import RequestError
from ..ops import COLUMNS
from .rows import (
    AT,
    HISTORY,
    Rows,
    State,
    Variance,
    accumulator,
    learned_variance,
    per_picture,
    row,
    scaled,
    step_rows,
)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One model evaluation and the update after it.

    Attributes:
        timestep: what the model is told.
        row: [len(COLUMNS)] float64.
        level: the (a, b) of x = a clean + b noise at this point of the run.
        in_scale: factor on the model's input.
        draws_noise: whether the update draws from the generator.
        known_level: the (a, b) that known latents get here, where that is not `level`.
        remembers: whether D becomes d1, and d1 d2...
        variance: of an update that is a mean and noise of a variance between these steps (DDPM),
            where the model does not predict it per pixel; None: of other updates.
    """

    timestep: int | float
    row: np.ndarray
    level: tuple[float, float]
    in_scale: float = 1.0
    draws_noise: bool = False
    known_level: tuple[float, float] | None = None
    remembers: bool = True
    variance: float | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """A run of one sampler: see the package's docstring for its use.

    Attributes:
        sampler: our name for it.
        evaluations: those that will run.
        init_noise_sigma: the standard deviation of the noise that a run begins with.
        begin: index of the first of them in the whole run.
        order: evaluations per step.
        extra: evaluations that the first step has besides.
        threshold: (ratio, largest) of dynamic thresholding, or None.
        noise_dtype: what noise is drawn in, where that is not the model's dtype.
        variance: what the model predicts of the noise's variance, beside its output, or None.
    """

    sampler: str
    evaluations: tuple[Evaluation, ...]
    init_noise_sigma: float
    begin: int = 0
    order: int = 1
    extra: int = 0
    threshold: tuple[float, float] | None = None
    noise_dtype: torch.dtype | None = None
    variance: Variance | None = None

    def __len__(self) -> int:
        return len(self.evaluations)

    @cached_property
    def timesteps(self) -> list[int | float]:
        return [e.timestep for e in self.evaluations]

    @cached_property
    def draws_noise(self) -> list[bool]:
        return [e.draws_noise for e in self.evaluations]

    @cached_property
    def in_scale(self) -> np.ndarray:
        """[evaluations] float64."""
        return np.array([e.in_scale for e in self.evaluations])

    @cached_property
    def rows(self) -> np.ndarray:
        """[evaluations, len(COLUMNS)] float64, with guidance 1."""
        return np.stack([e.row for e in self.evaluations])

    @property
    def num_steps(self) -> int:
        """Denoising steps that will run; the last may have fewer evaluations than the others."""
        return max(1, -((self.extra - len(self)) // self.order))

    @property
    def level(self) -> tuple[float, float]:
        """(a, b) of x = a clean + b noise where the run begins."""
        return self.evaluations[0].level

    @cached_property
    def renoise(self) -> list[tuple[float, float]]:
        """(a, b) of known latents after each evaluation; (1, 0), clean, after the last."""
        return [e.known_level or e.level for e in self.evaluations[1:]] + [(1.0, 0.0)]

    @cached_property
    def ends_step(self) -> list[bool]:
        """Whether a denoising step is complete after each evaluation; num_steps of them are."""
        extra = len(self) - self.num_steps * self.order
        done = range(1, len(self) + 1)
        return [i == len(self) or (i > extra and i % self.order == 0) for i in done]

    @cached_property
    def depth(self) -> int:
        """How many past D any row looks back on, 0 to 3."""
        used = [k for k, name in enumerate(HISTORY, 1) if self._uses(f"x_{name}", f"y_{name}")]
        return max(used, default=0)

    @cached_property
    def keeps_base(self) -> bool:
        return self._uses("x_base", "y_base")

    def _uses(self, *columns: str) -> bool:
        return bool(np.any(self.rows[:, [AT[c] for c in columns]]))

    def until(self, cutoff: float) -> "Plan":
        """The same run, ended where the timesteps fall below `cutoff`.

        Raises:
            RequestError: where that leaves nothing.
        """
        kept = [e for e in self.evaluations if e.timestep >= cutoff]
        if not kept:
            raise RequestError(
                f"denoising_end: nothing of the run lies before it, as its first timestep "
                f"{self.timesteps[0]:g} is below {cutoff:g}"
            )
        return replace(self, evaluations=tuple(kept))

    def start(self, noise: Tensor, clean: Tensor | None = None) -> State:
        """The state before the first evaluation.

        Args:
            noise: [N, ...] standard normal.
            clean: [N, ...] latents to begin from (image-to-image), or None for pure noise, scaled
                by init_noise_sigma.
        """
        if clean is None:
            return State(noise if self.init_noise_sigma == 1 else noise * self.init_noise_sigma)
        return State(self.add_noise(clean, noise))

    def add_noise(self, clean: Tensor, noise: Tensor) -> Tensor:
        """`clean` at the noise level where the run begins.

        Args:
            clean: [N, ...].
            noise: [N, ...] standard normal.
        """
        a, b = self.level
        return a * clean + b * noise

    def scale_input(self, i: int, x: Tensor) -> Tensor:
        """What the model is given for the sample x in evaluation i.

        Args:
            i: the evaluation.
            x: [N, ...].
        """
        scale = self.evaluations[i].in_scale
        return x if scale == 1 else x * scale

    def keep_known(
        self, i: int, state: State, clean: Tensor, noise: Tensor | None, mask: Tensor
    ) -> State:
        """The state after evaluation i with the known part put back, at its noise level.

        Args:
            i: the evaluation.
            state: after it.
            clean, noise: [N, ...] latents of the known picture and the noise it began with; None:
                the known part is clean at every level.
            mask: broadcastable to them, 1 where the picture is made anew, 0 where it is known.
        """
        a, b = self.renoise[i]
        known = clean if noise is None or not b else a * clean + b * noise
        return replace(state, x=(1 - mask) * known + mask * state.x)

    def all_rows(self, x: Tensor, guidance_scale: float | Sequence[float] = 1.0) -> list[Rows]:
        """The rows of every evaluation for N pictures, copied to their device at once.

        Args:
            x: [N, ...], whose dtype and device the rows are for.
            guidance_scale: one number, or one per picture.
        """
        every = [stack_rows([(self, i)] * len(x), guidance_scale) for i in range(len(self))]
        numbers = [np.concatenate([r.in_scale[:, None], r.table], axis=1) for r in every]
        there = to_device(torch.from_numpy(np.stack(numbers)).to(accumulator(x)), x.device)
        both = ((step[:, 0].contiguous(), step[:, 1:].contiguous()) for step in there)
        return [replace(r, there=one) for r, one in zip(every, both, strict=True)]

    def step(
        self,
        i: int,
        state: State,
        out: Tensor,
        guidance_scale: float | Sequence[float] = 1.0,
        noise: Tensor | None = None,
        guidance_rescale: float | Sequence[float] = 0.0,
    ) -> State:
        """The state after evaluation i, whose model output is `out`.

        Args:
            i: the evaluation.
            state: before it.
            out: the model's output, as step_rows takes it.
            guidance_scale: one number, or one per picture; of no effect where `out` has no
                unconditional rows.
            noise, guidance_rescale: as step_rows'.
        """
        rows = stack_rows([(self, i)] * state.x.shape[0], guidance_scale)
        return step_rows(state, out, rows, noise, guidance_rescale)

    def describe(self) -> str:
        """The table as text: one line per evaluation, only columns that say something."""
        shown = [c for c in COLUMNS[1:] if np.any(self.rows[:, AT[c]] != row()[AT[c]])]
        head = ["#", "timestep", "noise level", "in_scale", *shown, "draws"]
        lines = [head]
        for i, e in enumerate(self.evaluations, self.begin):
            values = [f"{e.row[AT[c]]:.6g}" for c in shown]
            a, b = e.level
            level = f"{b / a if a else np.inf:.6g}"
            drawn = "noise" if e.draws_noise else ""
            lines.append([str(i), f"{e.timestep:g}", level, f"{e.in_scale:.6g}", *values, drawn])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(map(str.rjust, line, widths)).rstrip() for line in lines]
        title = (
            f"{self.sampler}: {self.num_steps} steps, {len(self)} model evaluations, "
            f"init_noise_sigma {self.init_noise_sigma:.6g}"
        )
        return "\n".join([title, *table])


def stack_rows(
    at: Sequence[tuple[Plan, int]], guidance_scale: float | Sequence[float] = 1.0
) -> Rows:
    """The rows of N pictures, each at an evaluation of its own plan.

    Args:
        at: (plan, index of the evaluation) of each picture.
        guidance_scale: one number, or one per picture.
    """
    table = np.stack([plan.evaluations[i].row for plan, i in at])
    table[:, AT["g"]] = per_picture("guidance_scale", guidance_scale, len(at))
    return Rows(
        table=table,
        timesteps=torch.tensor([plan.evaluations[i].timestep for plan, i in at]),
        in_scale=np.array([plan.evaluations[i].in_scale for plan, i in at]),
        draws_noise=tuple(plan.evaluations[i].draws_noise for plan, i in at),
        thresholds=tuple(plan.threshold for plan, _ in at),
        depth=max(plan.depth for plan, _ in at),
        keeps_base=any(plan.keeps_base for plan, _ in at),
        remembers=tuple(plan.evaluations[i].remembers for plan, i in at),
        variances=tuple(plan.variance for plan, _ in at),
    )


__all__ = [
    "Evaluation",
    "Plan",
    "Rows",
    "State",
    "Variance",
    "learned_variance",
    "per_picture",
    "row",
    "scaled",
    "stack_rows",
    "step_rows",
]
