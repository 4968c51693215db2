"""A picture on its way through the stages, and the pictures of a call."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ...errors import OutOfMemoryError, PyengineError
from ...jobs import checks
from ...jobs.job import Call, Job
from ...jobs.output import Report
from ...jobs.request import CallRequest
from ...jobs.runs import Run

if TYPE_CHECKING:
    from .pipeline import CascadePipeline

#: What a callback may look at: what the stage works on, [N, C, h, w].
CALLBACK_TENSORS = ("latents",)


@dataclass(kw_only=True)
class CascadeRequest(CallRequest):
    """A call's arguments, checked.

    pictures: of each picture its prompt, negative prompt and class, by the arguments' names.
    stages: of each stage the further arguments of its call. sizes: (height, width) in pixels of
    each stage's pictures. units: evaluations that each stage takes, as far as its request tells.
    begin: the first stage's pictures to begin from, by the arguments' names, one each.
    guided: of each stage. height, width: of the last stage's.
    """

    pictures: list[dict[str, Any]]
    stages: list[dict[str, Any]]
    sizes: list[tuple[int, int]]
    units: list[int]
    guided: list[bool]
    begin: list[dict[str, Any]]
    generators: list[torch.Generator]
    callback_inputs: tuple[str, ...] = CALLBACK_TENSORS
    callback_known: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return len(self.pictures)

    @property
    def height(self) -> int:
        return self.sizes[-1][0]

    @property
    def width(self) -> int:
        return self.sizes[-1][1]

    @property
    def evaluations(self) -> int:
        """Evaluations of a picture, in all stages."""
        return sum(self.units)


class CascadeJob(Job):
    """A picture at one of the stages.

    stage: which; inner: that stage's job, of `call`, a call of this picture alone. texts: its
    embeddings by stage, where a stage takes them. reports: of the stages that it has come to.
    """

    def __init__(
        self,
        run: Run,
        index: int,
        seed: int | None,
        units: list[int],
        generator: torch.Generator,
        texts: list[dict[str, Tensor]],
    ):
        super().__init__(run, index, seed)
        self.units, self.generator, self.texts = units, generator, texts
        self.stage = -1
        self.call: Call
        self.before = 0, 0
        self.reports: list[Report] = []

    @property
    def inner(self) -> Job:
        first: Job = self.call.jobs[0]
        return first

    @property
    def last(self) -> bool:
        """Whether it is at the last stage."""
        return self.stage == len(self.units) - 1

    @property
    def complete(self) -> bool:
        return self.last and self.inner.complete

    @property
    def left(self) -> int:
        return self.inner.left + sum(self.units[self.stage + 1 :])

    @property
    def shape(self) -> Hashable:
        if self.inner.complete and not self.last:  # goes on to the next stage
            return self.stage + 1, None
        return self.stage, self.inner.shape

    def begin(self, call: Call, report: Report) -> None:
        """Goes on to the next stage, whose call of this picture is there."""
        self.leave()
        self.stage += 1
        self.call = call
        self.before = self.steps, self.evaluations
        self.reports.append(report)

    def leave(self) -> None:
        """What the stage's report says of steps, where there is a stage."""
        if self.reports:
            self.call.tally()

    def count(self) -> None:
        """Takes over what the stage's job has come to."""
        self.steps = self.before[0] + self.inner.steps
        self.evaluations = self.before[1] + self.inner.evaluations
        self.error = self.inner.error


class CascadeCall(Call[CascadeRequest, CascadeJob]):
    """The pictures of one call."""

    stage: ClassVar[str] = "stages"
    title: ClassVar[str] = "steps"

    def __init__(
        self, pipe: "CascadePipeline", r: CascadeRequest, report: Report, jobs: list[CascadeJob]
    ):
        super().__init__(r, report, jobs)
        self._pipe = pipe
        self._evaluations = 0  # that progress was told of

    @property
    def total(self) -> int:
        return max(job.evaluations + job.left for job in self.jobs)

    def stepped(self, jobs: Sequence[CascadeJob]) -> int:
        self.raise_error()
        self.tally()
        if self.request.callback is not None:
            latents, timestep = self.seen()
            step = self.report.evaluations - 1
            checks.call_back(self._pipe, self.request, step, timestep, {"latents": latents})
        before, self._evaluations = self._evaluations, max(job.evaluations for job in self.jobs)
        return self._evaluations - before

    @property
    def shown(self) -> list[CascadeJob]:
        """The jobs at the earliest stage that one is at: the pictures of others differ in size."""
        stage = min(job.stage for job in self.jobs)
        return [job for job in self.jobs if job.stage == stage]

    @property
    def shown_by(self) -> Any:
        return self._pipe.stages[self.shown[0].stage]

    def seen(self) -> tuple[Tensor, Any]:
        """What the stage of `shown` works on, a copy, and its last timestep."""
        found = [job.call.seen() for job in self.shown]
        return torch.cat([latents for latents, _ in found]), found[0][1]

    def end(self) -> None:
        for job in self.jobs:
            job.leave()
            job.call.end()
        super().end()
        self.report.guidance_scale = self.jobs[0].reports[0].guidance_scale
        self.report.stages = _merged(self.jobs)
        self.report.sampler = " + ".join(own.sampler for own in self.report.stages)
        for own in self.report.stages:
            self.report.warnings += [w for w in own.warnings if w not in self.report.warnings]


def _merged(jobs: Sequence[CascadeJob]) -> list[Report]:
    """A report for each stage that a picture has come to: the first picture's, with the seconds of
    all and the most steps of one.
    """
    merged = []
    for k in range(max(len(job.reports) for job in jobs)):
        own = [job for job in jobs if len(job.reports) > k]
        report = own[0].reports[k]
        for other in own[1:]:
            for name, seconds in other.reports[k].seconds.items():
                report.seconds[name] = report.seconds.get(name, 0.0) + seconds
        merged.append(report)
    return merged


def set_error(job: CascadeJob, error: PyengineError) -> None:
    """A fault of this picture alone; no memory is nobody's, and raised."""
    if isinstance(error, OutOfMemoryError):
        raise error
    job.error = error
