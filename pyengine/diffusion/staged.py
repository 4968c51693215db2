"""Pictures that several networks denoise one after the other: a prior and a decoder, a decoder and
what enlarges its pictures.

A stage is a run of the denoising step (step.py) of its own: other latents, another plan, another
network. It begins with what the stage before has come to, and only as its first evaluation is asked
for: one that did not fit into memory is asked for again, and finds the same numbers drawn.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..cuda import Leash
from ..errors import NotFiniteError
from ..finite import all_finite, kind, not_finite
from ..guidance import NEGATIVE, TEXT, Guidance, Term
from ..jobs import checks
from ..jobs.job import Call, Job
from ..jobs.noise import NoiseSource, PictureNoise
from ..jobs.output import Report
from ..jobs.request import Heard, RequestT
from ..jobs.runs import Run
from ..schedules import Plan
from ..schedules.plan import State
from .call import DenoisingCall, version_of
from .conditions import Conditions
from .evaluator import Evaluator
from .job import Batch, DenoisingJob
from .step import step
from .watch import check_answer, check_noted


@dataclass(frozen=True, eq=False)
class Stage:
    """A network's part in making a picture. main_part: what errors call the network."""

    main_part: str
    evaluate: Evaluator


class Course(Protocol):
    """What a call's pictures go through.

    lengths: evaluations of each stage, which the pipeline's stages evaluate, in order. shapes:
    equal for stages of the pipeline's jobs that share evaluations.
    """

    lengths: tuple[int, ...]
    shapes: tuple[Hashable, ...]

    def begin(self, stage: int, jobs: Sequence["StagedJob"]) -> None:
        """Has each of the jobs `enter` that stage; they are at the end of the one before, or new.
        A job whose part of it is not finite gets an error instead.
        """


class StagedJob(Job):
    """One picture on its way through the stages of its call's course.

    stage: where it is, -1 before the first. inner: what is denoised there; of a prior perhaps two
    embeddings, else one picture.
    """

    def __init__(self, run: Run, index: int, seed: int | None, course: Course):
        super().__init__(run, index, seed)
        self.course, self.stage = course, -1
        self.inner: tuple[DenoisingJob, ...] = ()
        self._before = 0, 0

    def enter(self, stage: int, *inner: DenoisingJob) -> None:
        """Goes on with `inner` in that stage."""
        self.stage, self.inner, self._before = stage, inner, (self.evaluations, self.steps)

    def count(self) -> None:
        """Takes note of what its inner jobs have come to."""
        evaluations, steps = self._before
        self.evaluations = evaluations + max(job.evaluations for job in self.inner)
        self.steps = steps + max(job.steps for job in self.inner)
        self.error = next((job.error for job in self.inner if job.error is not None), None)

    def check(self, part: str, x: Tensor) -> bool:
        """Whether x, which that part has made of the picture, is finite; else it has an error."""
        if not all_finite(x):
            self.error = not_finite(part, kind(x), f"picture {self.index}", x.dtype)
        return self.error is None

    @property
    def waits(self) -> bool:
        """Whether another stage is to begin."""
        ended = all(job.complete for job in self.inner)
        return ended and self.stage + 1 < len(self.course.lengths)

    @property
    def complete(self) -> bool:
        last = self.stage + 1 == len(self.course.lengths)
        return last and all(job.complete for job in self.inner)

    @property
    def left(self) -> int:
        here = max((job.left for job in self.inner), default=0)
        return here + sum(self.course.lengths[self.stage + 1 :])

    @property
    def shape(self) -> Hashable:
        coming = self.stage + self.waits
        return coming, self.course.shapes[coming]

    @property
    def latents(self) -> Tensor:
        """[1, ...], of what is denoised at its stage."""
        return self.inner[0].latents


def take_step(stages: Sequence[Stage], jobs: Sequence[StagedJob]) -> None:
    """Takes every job, all active, one evaluation further, those of a stage together."""
    enter_stages(jobs)
    for number, stage in enumerate(stages):
        here = [job for job in jobs if job.stage == number and job.error is None]
        inner = [one for job in here for one in job.inner if one.active]
        for one in inner:
            one.owner = stage
        if inner:
            step(stage.evaluate, inner)
        for job in here:
            job.count()


def enter_stages(jobs: Sequence[StagedJob]) -> None:
    """Begins the next stage of those jobs that are at the end of one, a call's together."""
    groups: dict[tuple[int, int], list[StagedJob]] = {}
    for job in jobs:
        if job.waits and _finite(job):
            groups.setdefault((id(job.course), job.stage), []).append(job)
    for group in groups.values():
        group[0].course.begin(group[0].stage + 1, group)


def _finite(job: StagedJob) -> bool:
    """Whether its stage was; on a GPU, where steps do not wait for that, it is read here."""
    try:
        check_noted(job.inner)
    except NotFiniteError:
        job.count()  # one of them has it now
    return job.error is None


class StagedCall(Call[RequestT, StagedJob]):
    """The jobs of one call. Its callback counts the steps of all stages, and sees and may change
    what is denoised in the one that it is at.
    """

    stage, title = "denoise", "denoising"

    def __init__(self, pipe: Any, r: RequestT, report: Report, jobs: Sequence[StagedJob]):
        """pipe: has `stages`."""
        self.pipe = pipe
        self.leash = Leash(pipe.device)
        super().__init__(r, report, jobs)

    @property
    def total(self) -> int:
        return sum(self.jobs[0].course.lengths)

    def stepped(self, jobs: Sequence[StagedJob]) -> int:
        self.raise_error()
        self.report.evaluations += 1
        self.report.steps = max(job.steps for job in jobs)
        self.leash.step()
        heard, first = self.heard(jobs[0].stage)
        if heard.callback is not None:
            position = jobs[0].inner[0].position - 1
            self._call_back(heard, first + position, jobs[0].inner[0].plan.timesteps[position])
        return 1

    def heard(self, stage: int) -> tuple[Heard, int]:
        """(what has the callback of a stage as a request has it, the number of its first step)."""
        return self.request, sum(self.jobs[0].course.lengths[:stage])

    def seen(self) -> tuple[Tensor, Any]:
        return self.latents().clone(), self._shown()[0].timestep

    def end(self) -> None:
        for job in self.jobs:
            check_noted(job.inner)
        super().end()

    def _shown(self) -> list[DenoisingJob]:
        """What is denoised at the stage that the call has come to: of pictures that were ended
        before it nothing, and second ones (negative embeddings) behind the others.
        """
        furthest = max(job.stage for job in self.jobs)
        here = [job.inner for job in self.jobs if job.stage == furthest]
        return [one for inner in zip(*here, strict=True) for one in inner]

    def latents(self) -> Tensor:
        """[N, ...], of the stage that the call has come to."""
        return torch.cat([job.latents for job in self._shown()])

    def _call_back(self, r: Heard, i: int, timestep: Any) -> None:
        shown, old = self._shown(), self.latents()
        before = version_of(old)
        answer = checks.call_back(self.pipe, r, i, timestep, {"latents": old})
        new = answer.get("latents", old)
        if new is old and version_of(old) == before:
            return
        new = DenoisingCall._fitting("latents", new, old, {len(old)})
        for k, job in enumerate(shown):
            job.batch.set_latents(job.row, new[k : k + 1])
        check_answer(i, new)


class StageNoise:
    """The normal numbers of a call's stages: of each first its start, then its steps, in the order
    in which a generator that serves all pictures is asked by diffusers.
    """

    def __init__(self, source: NoiseSource, count: int, stages: int):
        self._own = [PictureNoise.of_call(source, count) for _ in range(stages)]

    def of(self, stage: int, picture: int) -> PictureNoise:
        return self._own[stage][picture]

    def start(self, stage: int, picture: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """[1, *shape]; the same again where it is asked for again before the first step."""
        return self.of(stage, picture).draw(-1, shape, dtype)


def stage_batch(
    jobs: Sequence[StagedJob],
    state: State,
    plan: Plan,
    conditions: Conditions,
    guidance: Sequence[Guidance],
    noise: Sequence[PictureNoise],
    source: str,
) -> list[DenoisingJob]:
    """What the jobs do in a stage that they enter together, as one batch from `state`; guidance and
    noise are of each.
    """
    inner = []
    for place, job in enumerate(jobs):
        own = (plan, conditions, guidance[place], 0.0, noise[place], source)
        one = DenoisingJob(job.run, job.index, job.seed, *own)
        one.place = place
        inner.append(one)
    Batch(inner, state)
    return inner


def guidance_between(scale: float, guided: bool) -> Guidance:
    """e[NEGATIVE] + scale (e[TEXT] - e[NEGATIVE]), for scales below 1 too, where it is guided."""
    if not guided or scale == 1:
        return Guidance(TEXT)
    return Guidance(NEGATIVE, (Term(scale, TEXT, NEGATIVE),))


def end_of(plan: Any, begin: int, end: int | None) -> Any:
    """The plan of some of a plan's evaluations, as a stage of their own."""
    return replace(plan, evaluations=plan.evaluations[begin:end])
