"""ControlNets and T2I-Adapters beside a batch's network: what they add in one step.

Jobs of any calls share a step, so what a network is shown, how much it counts and when is each
picture's own; a network is evaluated once for all rows that it acts on. Rows that none acts on are
given -0.0, which changes no bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from ..models.control.controlnet import ControlNetModel
from ..models.control.union import KINDS, ControlNetUnionModel
from ..models.unet import Residuals
from .conditions import Conditions, gather
from .job import DenoisingJob
from .told import gather_contexts, gather_times


class ToldRows(Protocol):
    """Whose the rows of an evaluation are: what is asked of Told here."""

    @property
    def entries(self) -> Sequence[tuple[int, str]]:
        """Of each row the picture, by its place among the jobs, and the condition."""

    def source_rows(self, rows: Sequence[int]) -> list[int]:
        """Of these rows, those of the conditions that they are made of."""


@dataclass(eq=False)
class Control:
    """A ControlNet, and what it is shown for the N pictures of a call.

    pictures: as `embed_picture` gives them, [N, h, w, C]: one, of a union also several. scales,
    starts, ends: of each of the N, one number for each of `pictures`: what it counts, and between
    which shares of the steps. guess: of each of the N: it acts on the last condition alone, on the
    finer skips less. modes: the kinds of a union's pictures. whole: see
    ControlNetUnionModel.evaluate.
    """

    network: ControlNetModel
    pictures: tuple[Tensor, ...]
    scales: Sequence[Sequence[float]]
    starts: Sequence[Sequence[float]]
    ends: Sequence[Sequence[float]]
    guess: Sequence[bool]
    modes: tuple[int, ...] = ()
    whole: bool = False
    #: What it is told of text and time: the U-Net's texts by its own layers.
    told: Conditions = field(default_factory=Conditions)

    def follow(self, c: Conditions) -> None:
        """Takes over the conditions of the call, which may have changed."""
        self.told.text, self.told.names = c.text, c.names
        self.told.added = c.added
        if isinstance(self.network, ControlNetUnionModel):
            kinds = self.network.kinds(self.modes, c.rows)
            self.told.added = {**(c.added or {}), KINDS: kinds}
        self.told.changed(self.network)

    def now(self, job: DenoisingJob) -> list[float]:
        """What each picture counts in the job's next evaluation; empty where nothing is added."""
        i, position, total = job.place, job.position, len(job.plan)
        scales = [
            0.0 if position / total < start or (position + 1) / total > end else scale
            for scale, start, end in zip(self.scales[i], self.starts[i], self.ends[i], strict=True)
        ]
        # Several pictures of a union scale what it is shown, not what it adds, as in diffusers.
        scaled = self.whole or len(scales) == 1
        return [] if scaled and scales[0] == 0 else scales

    def acts_on(self, job: DenoisingJob, name: str) -> bool:
        """Whether it acts on the row of a condition."""
        return not self.guess[job.place] or name == job.guidance.conditions[-1]


@dataclass(frozen=True, eq=False)
class Features:
    """What T2I-Adapters add on the way down, for the N pictures of a call.

    blocks: [N, h, w, C] each, scaled. steps: of each of the N, in how many of the first it is
    added. (diffusers' SDXL counts evaluations, so that samplers of two a step end at half of them.)
    """

    blocks: tuple[Tensor, ...]
    steps: Sequence[int]


def residuals_of(jobs: Sequence[DenoisingJob], told: ToldRows, x: Tensor) -> Residuals | None:
    """What is added to the network's activations of every row; None where nothing is.

    x: [jobs, C, h, w], the latents as the network is given them.
    """
    blocks = _features(jobs, told)
    most = max(len(job.conditions.controls) for job in jobs)
    total = _Total(len(told.entries))
    for n in range(most):
        groups: dict[tuple[int, int, bool], list[tuple[int, list[float]]]] = {}
        for row, (k, name) in enumerate(told.entries):
            job = jobs[k]
            if n >= len(job.conditions.controls):
                continue
            control = job.conditions.controls[n]
            scales = control.now(job)
            if scales and control.acts_on(job, name):
                key = id(control.network), len(control.pictures), control.whole
                groups.setdefault(key, []).append((row, scales))
        for members in groups.values():
            rows = [row for row, _ in members]
            total.add(rows, _evaluate(n, jobs, told, x, members))
    skips, mid = total.parts()
    if mid is None and not blocks:
        return None
    return Residuals(skips, mid, blocks)


def _evaluate(
    n: int,
    jobs: Sequence[DenoisingJob],
    told: ToldRows,
    x: Tensor,
    members: Sequence[tuple[int, list[float]]],
) -> list[Tensor]:
    """The n-th ControlNet of these rows' jobs, which is the same. members: rows, their scales."""
    rows = [row for row, _ in members]
    owners = [told.entries[row][0] for row in rows]
    own = [jobs[k] for k in owners]
    controls = [job.conditions.controls[n] for job in own]
    network, sources = controls[0].network, told.source_rows(rows)
    text = own[0].conditions.text_shape(own[0].place)
    length = None if text is None else text[0]
    context = gather_contexts([c.told.context for c in controls], sources, length)
    pairs = [(c.told, job) for c, job in zip(controls, own, strict=True)]
    times = gather_times(network, pairs, sources)
    pictures = [
        gather([(c.pictures[i], job.place) for c, job in zip(controls, own, strict=True)])
        for i in range(len(controls[0].pictures))
    ]
    more: dict[str, Any] = {}
    if isinstance(network, ControlNetUnionModel):
        places: dict[int, list[int]] = {}
        for place, k in enumerate(owners):
            places.setdefault(k, []).append(place)
        more = {
            "modes": [c.modes for c in controls],
            "groups": list(places.values()),
            "whole": controls[0].whole,
        }
    sample = x[torch.tensor(owners, device=x.device)]
    scales = torch.tensor([scales for _, scales in members])
    guess = [c.guess[job.place] for c, job in zip(controls, own, strict=True)]
    found = network.evaluate(sample, times, context, pictures, scales, guess, **more)
    assert found.mid is not None
    return [*found.skips, found.mid]


class _Total:
    """The sum of what networks add, of some rows each."""

    def __init__(self, count: int):
        self._count = count
        self._parts: list[Tensor] = []

    def add(self, rows: Sequence[int], parts: Sequence[Tensor]) -> None:
        whole = list(rows) == list(range(self._count))
        if not self._parts and whole:
            self._parts = list(parts)
            return
        if not self._parts:
            self._parts = [part.new_full((self._count, *part.shape[1:]), -0.0) for part in parts]
        if whole:
            self._parts = [a + b for a, b in zip(self._parts, parts, strict=True)]
            return
        at = torch.tensor(rows, device=parts[0].device)
        for before, part in zip(self._parts, parts, strict=True):
            before[at] = before[at] + part

    def parts(self) -> tuple[tuple[Tensor, ...], Tensor | None]:
        if not self._parts:
            return (), None
        return tuple(self._parts[:-1]), self._parts[-1]


def _features(jobs: Sequence[DenoisingJob], told: ToldRows) -> tuple[Tensor, ...]:
    """Of every row what T2I-Adapters add on the way down; () where none does."""
    found: dict[int, Features] = {}
    for k, job in enumerate(jobs):
        own = job.conditions.features
        if own is not None and job.steps < own.steps[job.place]:
            found[k] = own
    if not found:
        return ()
    first = next(iter(found.values())).blocks
    parts = []
    for i, like in enumerate(first):
        nothing = like.new_full((1, *like.shape[1:]), -0.0)
        parts.append(
            gather(
                [
                    (found[k].blocks[i], jobs[k].index) if k in found else (nothing, 0)
                    for k, _ in told.entries
                ]
            )
        )
    return tuple(parts)
