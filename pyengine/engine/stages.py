"""The stages of a request: its pictures are prepared, stepped beside others', shown and decoded."""

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

from ..guard import inference
from ..jobs.job import Job
from ..jobs.output import Report
from ..jobs.request import Requested
from ..ops import kernels_used
from ..ops._backend import KernelsUsed
from ..pipelines.base import Pipeline
from ..pipelines.steps import Step, Steps

#: (model, height, width) of requests that are expected to share evaluations.
Queue = tuple[str, int, int]


class Stages(Steps):
    """A request whose steps are taken by whoever steps its pictures, with any others."""

    def __init__(self, model: str, pipe: Pipeline, request: Requested):
        super().__init__(pipe, request)
        self.model, self.pipe, self.request = model, pipe, request
        self.queue: Queue = (model, request.height, request.width)
        self.count = len(request.seeds) if request.seeds else request.count
        self.total = 0
        self._previews: list[int] = []
        #: Whether the previews that were asked for in the beginning are quick ones.
        self.quick = False
        #: Whether the pictures are to be shown after the next step: None: not; True: quickly.
        self.asked: bool | None = None
        self._shown_quickly = False

    @property
    def report(self) -> Report:
        return self._report

    @property
    def pictures(self) -> tuple[Job, ...]:
        return self.jobs

    @property
    def left(self) -> int:
        """Evaluations of one picture that are left, of all pictures together."""
        if self._call is None:
            return self.request.evaluations * self.count
        return sum(picture.left for picture in self.pictures)

    @property
    def progress(self) -> tuple[int, int]:
        """(evaluations that are done, all), the mean over the pictures."""
        return (self.total - self.left) // self.count, -(-self.total // self.count)

    @property
    def complete(self) -> bool:
        return all(picture.complete for picture in self.pictures)

    def prepare(self, previews: int) -> None:
        """Encodes texts and draws noise. previews: pictures to be shown on the way."""
        self._call = self._begin()
        self.total = self.left
        steps = self.progress[1]
        self._previews = sorted(
            {k * steps // (previews + 1) for k in range(1, previews + 1)} - {0, steps}
        )

    def key(self, picture: Job) -> Hashable:
        """Equal for pictures that share an evaluation."""
        return self.model, picture.shape

    def stepped(self, pictures: Sequence[Job], seconds: float, used: KernelsUsed) -> None:
        """Takes note of a step that these of its pictures took part in. Raises the error of a
        picture that the step ended.
        """
        assert self._call is not None
        spent, stage = self._report.seconds, self._call.stage
        spent[stage] = spent.get(stage, 0.0) + seconds
        self._note(used)
        self._call.stepped(pictures)

    def abandon(self) -> None:
        """Gives back what its pictures hold: the request has failed."""
        if self._call is not None:
            self._call.abandon()

    def due_preview(self) -> bool:
        """Whether the step that was just taken is one to be shown."""
        done, ways = self.progress[0], [] if self.asked is None else [self.asked]
        self.asked = None
        while self._previews and self._previews[0] <= done:
            self._previews.pop(0)
            ways.append(self.quick)
        self._shown_quickly = all(ways)
        return bool(ways)

    @inference
    def snapshot(self) -> Callable[[], Any]:
        """What decodes the pictures as they are now, whenever it is called."""
        assert self._call is not None
        latents, timestep = self._call.seen()
        pipe = self._call.shown_by or self._pipe
        step = Step(self.progress[0], timestep, latents, self.pictures, pipe)
        return partial(step.preview, quick=self._shown_quickly)

    def finish(self) -> Any:
        """What the pipeline's call would return."""
        assert self._call is not None
        self._call.tally()
        output = self._finish(self._call)
        return output if self.request.return_dict else self.pipe._tuple(output)


def step(pipe: Pipeline, pictures: Sequence[Job]) -> KernelsUsed:
    """One evaluation of pictures of any requests; the kernels that ran."""
    with kernels_used() as used:
        pipe.step(pictures)
    return used
