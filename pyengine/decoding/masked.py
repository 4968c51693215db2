"""Masked generation over jobs: all positions of a picture are predicted at once, the least certain
ones are masked again.

A step evaluates the transformer once for all jobs whose pictures and texts have one size, each at
its own position of its own plan. A job's tokens never depend on the others of its step.

Chang et al. 2022, arXiv:2202.04200 (MaskGIT); Patil et al. 2024, arXiv:2401.01808 (aMUSEd).
"""

import weakref
from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass
from itertools import count, groupby
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..cuda import Graphs, Record, to_device
from ..errors import NotFiniteError
from ..jobs import checks
from ..jobs.job import Call, Job
from ..jobs.noise import NoiseSource
from ..jobs.output import Report
from ..jobs.request import RequestT
from ..jobs.runs import Run
from ..models.tokens.uvit import UVit2DModel, UVitContext
from ..schedules.masked import MaskedPlan
from .checks import check_drawn, check_logits
from .request import Sampling

#: (tokens [R, h, w], the context of the same rows) to logits [R, h, w, codebook_size].
Evaluate = Callable[[Tensor, UVitContext], Tensor]

_serials = count()


@dataclass(frozen=True)
class MaskedSampling:
    """What decides how a job's tokens are drawn from its logits; equal for jobs that are drawn
    together. guidance_scale: above 1 an evaluation has two rows of the job, else one. limits:
    which tokens may be drawn; their temperature is not used.
    """

    guidance_scale: float
    limits: Sampling
    mask_token: int

    @property
    def guided(self) -> bool:
        return self.guidance_scale > 1


@dataclass(frozen=True)
class Conditions:
    """Where a job's rows lie in the context of its call. positive: of the prompt; negative: of the
    negative prompt, None without guidance. text_length: tokens of the encoded texts.
    """

    context: UVitContext
    positive: int
    negative: int | None
    text_length: int


class StepNumbers:
    """Random numbers of the pictures that share a generator: [rows, ...] for every step.

    A step's numbers are drawn for all rows at once, as diffusers draws them, when the first of the
    jobs comes to that step, and kept until no active job has that step before it. A picture with a
    generator of its own is the only row.
    """

    def __init__(self, noise: NoiseSource, rows: int):
        self._noise, self._rows = noise, rows
        self.jobs: weakref.WeakSet[MaskedJob] = weakref.WeakSet()
        self._drawn: dict[int, tuple[Tensor, Tensor]] = {}

    def add(self, job: "MaskedJob") -> None:
        """The job's steps are among those that numbers are kept for."""
        self.jobs.add(job)

    def at(self, job: "MaskedJob", logits: Tensor) -> tuple[Tensor, Tensor]:
        """(exponential [1, L, K], uniform [1, L]) for the step that the job is at.

        logits: [L, K], the job's. The last step masks nothing and draws no uniform numbers.
        """
        if job.steps not in self._drawn:
            exponential = self._noise.exponential((self._rows, *logits.shape))
            uniform = torch.zeros((self._rows, len(logits)), device=logits.device)
            if job.timestep > 0:
                uniform = self._noise.uniform((self._rows, len(logits)), logits.dtype)
            self._drawn[job.steps] = exponential, uniform
        exponential, uniform = self._drawn[job.steps]
        return exponential[job.row : job.row + 1], uniform[job.row : job.row + 1]

    def forget(self) -> None:
        """Frees the numbers of steps that all active jobs have behind them."""
        first = min((job.steps for job in self.jobs if job.active), default=None)
        for step in list(self._drawn):
            if first is None or step < first:
                del self._drawn[step]


def step_numbers(noise: NoiseSource, pictures: int) -> list[tuple[StepNumbers, int]]:
    """(numbers, row) of each of a call's pictures, from the generators of `noise`."""
    if noise.shared:
        together = StepNumbers(noise, pictures)
        return [(together, row) for row in range(pictures)]
    return [(StepNumbers(NoiseSource([g], noise.device), 1), 0) for g in noise.generators]


class MaskedJob(Job):
    """A picture of masked tokens in the making.

    plan: its steps; `steps` of them are complete. tokens: [h, w] int64, the mask token where a
    position is masked. drawn: [h, w], what the last step predicted, also where it is masked again.
    masked_share: of the picture's positions, when it began. row: of `numbers`. source: what to call
    its model in errors.
    """

    def __init__(
        self,
        run: Run,
        index: int,
        seed: int | None,
        *,
        plan: MaskedPlan,
        tokens: Tensor,
        masked_share: float,
        sampling: MaskedSampling,
        conditions: Conditions,
        numbers: StepNumbers,
        row: int,
        source: str,
    ):
        super().__init__(run, index, seed)
        self.plan, self.sampling, self.conditions = plan, sampling, conditions
        self.tokens = self.drawn = tokens
        self.masked_share = masked_share
        self.numbers, self.row = numbers, row
        self.source = source
        self.joined: JoinedContext | None = None
        self.serial = next(_serials)
        numbers.add(self)

    @property
    def complete(self) -> bool:
        return self.steps == len(self.plan.timesteps)

    @property
    def left(self) -> int:
        return len(self.plan.timesteps) - self.steps

    @property
    def shape(self) -> Hashable:
        return *self.tokens.shape, self.conditions.text_length

    @property
    def timestep(self) -> int:
        """Of the step that comes next."""
        return self.plan.timesteps[self.steps]

    @property
    def result(self) -> Tensor:
        """[h, w]: all tokens as the last step predicted them; -1 where no step predicted one."""
        if self.steps == 0:
            return self.tokens.masked_fill(self.tokens == self.sampling.mask_token, -1)
        return self.drawn

    def replace(self, tokens: Tensor) -> None:
        """Takes other tokens than the last step's; where they are masked, `drawn` stays."""
        self.drawn = torch.where(tokens == self.sampling.mask_token, self.drawn, tokens)
        self.tokens = tokens

    def advance(self, tokens: Tensor, drawn: Tensor) -> None:
        """A step is complete, with these results [L]."""
        self.tokens, self.drawn = tokens.view_as(self.tokens), drawn.view_as(self.drawn)
        self.steps += 1
        self.evaluations += 1
        if not self.active:
            self.joined = None


class JoinedContext:
    """The context of jobs that share an evaluation: rows without the prompt of those with guidance,
    then a row of each.

    Held by these jobs only, so that its memory goes with them; it knows them weakly, since keys and
    values of the text would otherwise wait on the garbage collector.
    """

    def __init__(self, jobs: Sequence[MaskedJob]):
        self.jobs = [weakref.ref(job) for job in jobs]
        self.context = _joined(
            [
                *(
                    (c.context, c.negative)
                    for c in (j.conditions for j in jobs)
                    if c.negative is not None
                ),
                *((job.conditions.context, job.conditions.positive) for job in jobs),
            ]
        )

    def is_of(self, jobs: Sequence[MaskedJob]) -> bool:
        """Whether it was made for these jobs, in this order."""
        return len(jobs) == len(self.jobs) and all(
            known() is job for known, job in zip(self.jobs, jobs, strict=True)
        )


def _joined(rows: Sequence[tuple[UVitContext, int]]) -> UVitContext:
    """The context that has these (context, row); the one they are of, where they are all of it."""
    first = rows[0][0]
    own = all(context is first for context, _ in rows)
    if own and [row for _, row in rows] == list(range(first.rows)):
        return first
    tensors = {id(context): context.tensors() for context, _ in rows}
    return first.over(
        [
            torch.cat([tensors[id(context)][i][row : row + 1] for context, row in rows])
            for i in range(len(tensors[id(first)]))
        ]
    )


def step(jobs: Sequence[MaskedJob], evaluate: Evaluate, waits: bool = True) -> None:
    """One evaluation and update of every job; those of one size are evaluated together.

    waits: False leaves faults of the logits to be found at the end (see check_result), where
    looking for them would mean to wait for a GPU. Otherwise such a job gets its `error` and stays
    where it is.
    """
    sizes: dict[Hashable, list[MaskedJob]] = {}
    for job in jobs:
        sizes.setdefault(job.shape, []).append(job)
    for together in sizes.values():
        _step_together(together, evaluate, waits)


def _step_together(jobs: list[MaskedJob], evaluate: Evaluate, waits: bool) -> None:
    # Guided jobs first, jobs of equal settings side by side: the kernels below take slices. Else in
    # the order in which they were made, whichever they are given in: see JoinedContext.is_of.
    jobs.sort(key=lambda job: (*_order(job.sampling), job.serial))
    known = jobs[0].joined
    if known is None or not known.is_of(jobs):
        known = JoinedContext(jobs)
    for job in jobs:
        job.joined = known
    tokens = torch.stack([job.tokens for job in jobs])
    guided = sum(job.sampling.guided for job in jobs)
    logits = evaluate(torch.cat([tokens[:guided], tokens]), known.context).flatten(1, 2)
    unconditional, conditional = logits[:guided], logits[guided:]
    begin = 0
    for sampling, group in groupby(jobs, lambda job: job.sampling):
        alike = list(group)
        rows = slice(begin, begin + len(alike))
        begin = rows.stop
        scores = conditional[rows]
        if sampling.guided:
            without = unconditional[rows]
            scores = without + sampling.guidance_scale * (scores - without)
        if waits:
            alike, scores = _without_faults(alike, scores)
        if alike:
            _refine(alike, scores, sampling, waits)


def _order(sampling: MaskedSampling) -> tuple[Any, ...]:
    return (
        not sampling.guided,
        sampling.guidance_scale,
        astuple(sampling.limits),
        sampling.mask_token,
    )


def _without_faults(jobs: list[MaskedJob], logits: Tensor) -> tuple[list[MaskedJob], Tensor]:
    """Those of which tokens can be drawn, and their logits; the others get their `error`."""
    try:
        check_logits(logits, "")
    except NotFiniteError:
        pass
    else:
        return jobs, logits
    kept = []
    for k, job in enumerate(jobs):
        try:
            check_logits(logits[k : k + 1], job.source, job.steps, [job.index])
            kept.append(k)
        except NotFiniteError as e:
            job.error = e.with_traceback(None)  # whose frames have the job: a reference cycle
    return [jobs[k] for k in kept], logits[kept]


def _refine(jobs: list[MaskedJob], logits: Tensor, s: MaskedSampling, waits: bool) -> None:
    """Draws tokens from logits [N, L, K] and masks some again: N jobs of equal settings."""
    device, length = logits.device, logits.shape[1]
    logits = s.limits.filter(logits)
    numbers = [job.numbers.at(job, row) for job, row in zip(jobs, logits, strict=True)]
    exponential, gumbel = (
        torch.cat(part) if len(part) > 1 else part[0] for part in zip(*numbers, strict=True)
    )
    masked = torch.tensor([j.plan.masked(j.steps, length, j.masked_share) for j in jobs])
    temperature = torch.stack([job.plan.temperature[job.steps] for job in jobs])
    with nullcontext() if waits else ops.unseen():
        tokens, drawn = ops.mask_refine(
            logits,
            torch.stack([job.tokens.flatten() for job in jobs]),
            exponential,
            gumbel,
            to_device(masked, device),
            to_device(temperature, device),
            s.mask_token,
        )
    for job, new, predicted in zip(jobs, tokens, drawn, strict=True):
        job.advance(new, predicted)
    for source in {job.numbers for job in jobs}:
        source.forget()


class TransformerGraphs:
    """The transformer as CUDA graphs, one for each number of rows and size of picture.

    record: pyengine.cuda.Record, given for tests.
    """

    def __init__(self, model: UVit2DModel, record: Record | None = None):
        # An object of its own is recorded: a reference cycle through this one would pin GPU memory
        # until the collector runs.
        self._recorded = _Recorded(model)
        self._graphs = Graphs(self._recorded, record=record)

    def __len__(self) -> int:
        return len(self._graphs)

    def clear(self) -> None:
        """Frees what was recorded."""
        self._graphs.clear()

    def logits(self, tokens: Tensor, context: UVitContext) -> Tensor:
        """As the model's; the next call overwrites them. Negative tokens, which could not be drawn,
        are read as 0: a run that looks at no values finds them at its end.
        """
        if self._recorded.layout is None:
            self._recorded.layout = context.layout()
        logits: Tensor = self._graphs([tokens.clamp(min=0)], context.tensors())
        return logits


@dataclass
class _Recorded:
    """layout: how the tensors of a context are nested, a fact of the model; it holds no values."""

    model: UVit2DModel
    layout: UVitContext | None = None

    def __call__(self, changing: Sequence[Tensor], kept: Sequence[Tensor]) -> Tensor:
        assert self.layout is not None
        (tokens,) = changing
        return self.model.logits(tokens, self.layout.over(kept))


def check_result(job: MaskedJob) -> Tensor:
    """The job's `result`; raises NotFiniteError where a step that did not wait drew no token."""
    check_drawn(job.drawn.view(1, -1), job.source, [job.index])
    return job.result


class MaskedCall(Call[RequestT, MaskedJob]):
    """The jobs of one call of a pipeline of masked tokens.

    Its callback sees the tokens [N, h, w] of all of them, the mask token where they are masked, and
    may give others back.
    """

    stage, title = "denoise", "denoising"

    def __init__(self, pipe: Any, request: RequestT, report: Report, jobs: Sequence[MaskedJob]):
        super().__init__(request, report, jobs)
        self._pipe = pipe
        self._timestep = 0

    @property
    def total(self) -> int:
        return max(len(job.plan.timesteps) for job in self.jobs)

    def stepped(self, jobs: Sequence[MaskedJob]) -> int:
        self.raise_error()
        last = jobs[-1]
        self._timestep = last.plan.timesteps[last.steps - 1]
        self.report.steps += 1
        self.report.evaluations += 1
        if self.request.callback is not None:
            self._call_back()
        return 1

    def _call_back(self) -> None:
        old = torch.stack([job.tokens for job in self.jobs])
        new = self._pipe._call_back(self.request, self.report.steps - 1, self._timestep, old)
        codes, mask_token = self._pipe.model.config.codebook_size, self._pipe.mask_token
        if ((new < 0) | ((new >= codes) & (new != mask_token))).any():
            raise checks.refuse(
                "callback_on_step_end: tokens",
                f"0 to {codes - 1}, or the mask {mask_token}",
                f"{int(new.min())} to {int(new.max())}",
            )
        for job, tokens in zip(self.jobs, new, strict=True):
            job.replace(tokens)

    def seen(self) -> tuple[Tensor, int]:
        return torch.stack([check_result(job) for job in self.jobs]), self._timestep

    def end(self) -> None:
        super().end()
        self.raise_error()
        for job in self.jobs:
            check_result(job)
