"""A run that is watched step by step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic

from torch import Tensor

from ..cuda import within_memory
from ..errors import CancelledError
from ..guard import inference
from ..jobs import checks
from ..jobs.job import Call, Job, JobT
from ..jobs.output import PipelineOutput, peak_memory, reset_peak_memory
from ..jobs.request import RequestT
from ..jobs.runs import Run
from ..ops import kernels_used
from ..ops._backend import KernelsUsed
from ..progress import progress as progress_bar

if TYPE_CHECKING:
    from .base import Pipeline

#: What a preview can be: decoded.
PREVIEWS = tuple(kind for kind in checks.OUTPUT_TYPES if kind != "latent")


@dataclass(frozen=True)
class Step:
    """A step that has been taken.

    step: from 0, as callbacks count them. timestep: what the model was told, a number; for token
    models the position of the last token. latents: [N, C, h, w] after it (token models: tokens
    [N, h, w], -1 where none is drawn yet; of masked ones the tokens that this step predicted, also
    where it masked them again), a copy. jobs: the pictures in the making; `job.cancel()` ends one.
    """

    step: int
    timestep: Any
    latents: Tensor
    jobs: tuple[Job, ...]
    _pipe: Pipeline

    @inference
    def preview(self, output_type: str = "pil", quick: bool = False) -> Any:
        """The pictures as they are now, decoded: a list of PIL pictures, or "np", "pt". As a run it
        takes its turn. quick: of latents by a linear map, coarse, for next to nothing (see
        pipelines/linear_preview.py); where the pipeline has none, decoded all the same.
        """
        pipe, kind = self._pipe, checks.choice("output_type", output_type, PREVIEWS)
        with pipe._runs.begin(Run(), pipe.device):
            try:
                advice = "fewer or smaller pictures would help"
                preview = pipe._quick_preview if quick else pipe._preview
                return within_memory(lambda: preview(self.latents, kind), advice, pipe._release)
            finally:
                pipe._trim()


def advance(pipe: Pipeline[RequestT, JobT], call: Call[RequestT, JobT]) -> int:
    """One evaluation for the call's active jobs, and what it means to the call; units of progress.
    Where no job is active, since another thread has just cancelled the last one, nothing.

    An engine does the same for jobs of several calls: `pipe.step`, then each call's `stepped`.
    Raises the error of a job that the step ended.
    """
    jobs = [job for job in call.jobs if job.active]
    if not jobs:
        return 0
    try:
        pipe._step(jobs)
        return call.stepped(jobs)
    except BaseException:
        call.abandon()
        raise


class Steps(Generic[RequestT, JobT]):
    """An iterator over the steps of a run; see Pipeline.steps. It may be iterated once.

    Nothing is held between two steps, so a loop may be left at any time.
    """

    def __init__(self, pipe: Pipeline[RequestT, JobT], request: RequestT):
        self._pipe, self._request = pipe, request
        self._report = pipe._report(request)
        self._call: Call[RequestT, JobT] | None = None
        self._output: PipelineOutput | None = None
        self._used = KernelsUsed()
        self._taken = 0
        self._closed = False

    def __iter__(self) -> Iterator[Step]:
        return self

    def __next__(self) -> Step:
        if self._closed:
            raise StopIteration
        if self._call is None:
            self._closed = True  # where it cannot begin, it cannot begin again either
            self._call = self._begin()
            self._report.warn()
            self._closed = False
        call = self._call
        if not call.active or not self._advance(call):
            self._closed = True
            raise StopIteration
        latents, timestep = call.seen()
        self._taken += 1
        pipe: Pipeline = call.shown_by or self._pipe
        return Step(self._taken - 1, timestep, latents, tuple(call.jobs), pipe)

    def close(self) -> None:
        """Ends the run where it is; `output` has what it came to."""
        self._closed = True

    @property
    def jobs(self) -> tuple[JobT, ...]:
        """The pictures in the making, once the first step is taken."""
        return () if self._call is None else tuple(self._call.jobs)

    @property
    def output(self) -> PipelineOutput:
        """The pictures as they are; a run that is not complete ends here."""
        self.close()
        if self._output is None:
            if self._call is None:
                raise CancelledError("the run was ended before its first step")
            self._output = self._finish(self._call)
            self._output.report.warn(finished=True)
        return self._output

    def run(self, show_progress: bool | None) -> PipelineOutput:
        """All of it in one turn of the pipeline, which the caller has: what `pipe(...)` does.

        Args:
            show_progress: whether a bar is shown; None: on a terminal.
        """
        pipe, report = self._pipe, self._report
        with self._kernels(), report.stage("total", pipe.device):
            call = self._begun()
            report.warn()
            with (
                report.stage(call.stage, pipe.device),
                progress_bar(call.title, call.total, show_progress) as bar,
            ):
                while call.active:
                    for _ in range(advance(pipe, call)):
                        bar()
            output = self._ended(call)
        report.peak_memory = peak_memory(pipe.device)
        return output

    def _begun(self) -> Call[RequestT, JobT]:
        reset_peak_memory(self._pipe.device)
        return self._pipe._begun(self._request, self._report)

    def _ended(self, call: Call[RequestT, JobT]) -> PipelineOutput:
        call.end()
        return self._pipe._finished(call)

    @inference
    def _begin(self) -> Call[RequestT, JobT]:
        pipe, r = self._pipe, self._request
        with pipe._runs.begin(r.run, pipe.device, r.timeout), self._kernels():
            return pipe._within_memory(self._begun, r)

    @inference
    def _advance(self, call: Call[RequestT, JobT]) -> bool:
        """One step; whether there was one before the run was ended."""
        pipe, r = self._pipe, self._request
        before = [job.evaluations for job in call.jobs]
        try:
            with (
                pipe._runs.hold(r.run, pipe.device),
                self._kernels(),
                self._report.stage(call.stage, pipe.device),
            ):
                pipe._within_memory(lambda: advance(pipe, call), r)
        except CancelledError:
            return False
        return before != [job.evaluations for job in call.jobs]

    @inference
    def _finish(self, call: Call[RequestT, JobT]) -> PipelineOutput:
        pipe, report = self._pipe, self._report
        with pipe._runs.begin(Run(), pipe.device), self._kernels():
            try:
                output = pipe._within_memory(lambda: self._ended(call), self._request)
            finally:
                pipe._trim()
        report.peak_memory = peak_memory(pipe.device)
        report.seconds["total"] = sum(report.seconds.values())
        return output

    @contextmanager
    def _kernels(self) -> Iterator[None]:
        """Notes in the report which kernels the body runs."""
        with kernels_used() as used:
            yield
        self._note(used)

    def _note(self, used: KernelsUsed) -> None:
        for op, labels in used.items():
            known = self._used.setdefault(op, [])
            known += [label for label in labels if label not in known]
        self._report.kernels = self._used.summary()
