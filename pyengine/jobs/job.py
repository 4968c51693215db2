"""One picture in the making, and the pictures of a call."""

from collections.abc import Hashable, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from torch import Tensor

from .output import Report
from .request import RequestT
from .runs import Run

if TYPE_CHECKING:
    from typing_extensions import TypeVar
else:
    from typing import TypeVar


class Job:
    """One picture in the making: a pipeline's `prepare` makes it, `step` takes it further, `finish`
    makes a picture of it.

    Its bits never depend on the jobs that it shares a step with, so jobs of different calls may
    join and leave a step as they come.

    run: the call's, which ends all jobs of that call. index: the picture's position in its call.
    seed: its own; None where the caller brought a generator. evaluations, steps: calls of the model
    that it took part in, and steps of its sampler (or tokens) that are complete. error: what ended
    it, for `finish` to raise; a fault of one job ends no other.
    """

    def __init__(self, run: Run, index: int = 0, seed: int | None = None):
        self.run, self.index, self.seed = run, index, seed
        #: What was asked for, the pipeline that prepared it, and what that then had loaded.
        self.request: Any = None
        self.owner: Any = None
        self.loaded: object = None
        self.evaluations = self.steps = 0
        self.error: Exception | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """Ends this job alone; safe from any thread, before its first step, during one (it ends
        after that) and when it is complete (nothing changes). `finish` then gives what there is.
        """
        self._cancelled = True

    @property
    def cancelled(self) -> bool:
        """Whether it was ended before it was complete, by itself or with its call."""
        return (self._cancelled or self.run.interrupted) and not self.complete

    @property
    def complete(self) -> bool:
        """Whether no step is left."""
        raise NotImplementedError

    @property
    def left(self) -> int:
        """Evaluations of the model that it takes until it is complete; where one may draw several
        tokens, as many as it takes at most.
        """
        raise NotImplementedError

    @property
    def shape(self) -> Hashable:
        """Equal for jobs of a pipeline that share an evaluation."""
        raise NotImplementedError

    @property
    def active(self) -> bool:
        """Whether `step` still takes it further."""
        return not (self.complete or self.cancelled or self.error is not None)

    def raise_error(self) -> None:
        """Raises its error, if it has one."""
        if self.error is not None:
            raise copy(self.error)  # whose traceback would refer to the job: a reference cycle


if TYPE_CHECKING:
    JobT = TypeVar("JobT", bound=Job, default=Any)
else:
    JobT = TypeVar("JobT")


class Call(Generic[RequestT, JobT]):
    """The jobs of one call on their way, whoever steps them: `pipe(...)`, a loop over `pipe.steps`,
    or an engine, with jobs of other calls.

    A subclass has `stepped`: what a step means to the report and the caller's callback.
    """

    #: What the report calls the time that the steps take, and the title of a progress bar.
    stage: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, request: RequestT, report: Report, jobs: Sequence[JobT]):
        """report: is filled in as the jobs go on."""
        self.request, self.report, self.jobs = request, report, list(jobs)
        request.run.jobs = jobs
        for job in jobs:
            job.request = request

    @property
    def total(self) -> int:
        """Units of a progress bar."""
        raise NotImplementedError

    @property
    def shown_by(self) -> Any:
        """The pipeline that makes pictures of what `seen` gives; None: the call's own."""
        return None

    @property
    def active(self) -> bool:
        return any(job.active for job in self.jobs)

    def stepped(self, jobs: Sequence[JobT]) -> int:
        """Takes note of an evaluation that these of its jobs, active before, took part in, and
        calls the caller's callback; returns units of progress.

        Raises the error of a job that the step ended.
        """
        raise NotImplementedError

    def abandon(self) -> None:
        """Its jobs go no further, since a step has failed: what they hold is given back."""

    def seen(self) -> tuple[Tensor, Any]:
        """(latents or tokens of all jobs, a copy; the timestep of the last step): see Step."""
        raise NotImplementedError

    def tally(self) -> None:
        """Fills in the report's steps and evaluations where not all of the jobs took part in each
        evaluation, beside those of other calls.
        """
        self.report.steps = max(job.steps for job in self.jobs)
        self.report.evaluations = max(job.evaluations for job in self.jobs)

    def end(self) -> None:
        """After the last step: checks that no step waited for, and the rest of the report.

        Also called where the jobs are left before they are complete.
        """
        self.report.interrupted = not all(job.complete for job in self.jobs)

    def raise_error(self) -> None:
        """Raises the first job's error, if any has one."""
        for job in self.jobs:
            job.raise_error()
