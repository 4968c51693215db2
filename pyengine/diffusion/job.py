"""Pictures on their way from noise, and batches of them."""

from collections.abc import Hashable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..guidance import Guidance
from ..jobs.job import Job
from ..jobs.noise import PictureNoise
from ..jobs.runs import Run
from ..schedules import Plan, State
from ..schedules.plus_plus import plus_plus_factor
from .conditions import Conditions
from .gradients import GradientGuidance
from .step_caching import KeptFeatures, StepCaching


class DenoisingJob(Job):
    """One picture on its way from noise.

    plan: its own. position: evaluations of it that are done. conditions: its call's; `place` says
    which picture of these it is, `index` unless told. guidance: its own, which names rows of the
    conditions.
    guidance_rescale: 0 to 1, see schedules.plan.step_rows. noise: the random numbers of its
    sampler. source: what to call its model in errors. gradients: what moves it besides.
    caching: which evaluations read kept_features, what the deep layers gave in an earlier one, or
    None.
    """

    def __init__(
        self,
        run: Run,
        index: int,
        seed: int | None,
        plan: Plan,
        conditions: Conditions,
        guidance: Guidance,
        guidance_rescale: float,
        noise: PictureNoise,
        source: str,
    ):
        super().__init__(run, index, seed)
        self.plan, self.conditions, self._guidance = plan, conditions, guidance
        self.guidance_rescale, self.noise, self.source = guidance_rescale, noise, source
        self.position, self.place = 0, index
        self.gradients: GradientGuidance | None = None
        self.caching: StepCaching | None = None
        self.kept_features: KeptFeatures | None = None
        #: Where its state lies, and in which row.
        self.batch: Batch
        self.row = 0

    @property
    def guidance(self) -> Guidance:
        """Of its next evaluation: all evaluations of a step alike."""
        return self._guidance.at(self.steps / self.plan.num_steps)

    @guidance.setter
    def guidance(self, value: Guidance) -> None:
        self._guidance = value

    @property
    def scale(self) -> float:
        """Of its next evaluation, as ops.sampler_step takes it; 0 where the outputs are combined
        before, since the base's place then has what they make.
        """
        guidance = self.guidance
        if guidance.scale is None:
            return 0.0
        if not guidance.renoises_base:
            return guidance.scale
        return guidance.scale * plus_plus_factor(self.plan.evaluations[self.position])

    @property
    def complete(self) -> bool:
        return self.position >= len(self.plan)

    @property
    def left(self) -> int:
        return len(self.plan) - self.position

    @property
    def shape(self) -> Hashable:
        c, x = self.conditions, self.latents
        extra = None if c.extra is None else c.extra.shape[1]
        text = c.text_shape(self.place)
        return x.shape[1:], x.dtype, text, extra, self.caching

    @property
    def latents(self) -> Tensor:
        """[1, C, h, w], after its last step."""
        return self.batch.state.x[self.row : self.row + 1]

    @property
    def timestep(self) -> int | float:
        """What the model was told last; at the beginning what it will be told first."""
        return self.plan.timesteps[max(self.position - 1, 0)]


class Batch:
    """The sampler's state of pictures that are stepped together. While the same jobs are stepped,
    nothing is copied; where some join or leave, the others' rows go into a new batch.

    A job knows its batch and its row there; the batch does not know its jobs, since a reference
    cycle would pin their memory.

    first_bad: on a GPU, where no step waits: [N] int64, the first half step (see watch.py) after
    which each picture's latents were not finite, -1 where they are; None: not looked at yet.
    told: what the model is told of these jobs, put together (see told.py).
    """

    def __init__(self, jobs: Sequence[DenoisingJob], state: State, first_bad: Tensor | None = None):
        self.state, self.first_bad = state, first_bad
        self.told: object = None
        for row, job in enumerate(jobs):
            job.batch, job.row = self, row

    def holds(self, jobs: Sequence[DenoisingJob]) -> bool:
        """Whether it is of exactly these jobs, in this order."""
        return len(jobs) == len(self.state.x) and all(
            job.batch is self and job.row == row for row, job in enumerate(jobs)
        )

    @staticmethod
    def of(jobs: Sequence[DenoisingJob]) -> "Batch":
        """The batch of exactly these jobs, in this order."""
        if jobs[0].batch.holds(jobs):
            return jobs[0].batch
        states, bad, begin = [], [], 0
        while begin < len(jobs):
            batch, end = jobs[begin].batch, begin
            while end < len(jobs) and jobs[end].batch is batch:
                end += 1
            rows = [job.row for job in jobs[begin:end]]
            states.append(batch.state.pick(rows))
            bad.append(batch.bad(rows))
            begin = end
        noted = None if all(b is None for b in bad) else _joined(bad, states)
        return Batch(jobs, State.join(states), noted)

    def bad(self, rows: Sequence[int]) -> Tensor | None:
        """first_bad of some rows."""
        if self.first_bad is None:
            return None
        return self.first_bad[torch.tensor(rows, device=self.first_bad.device)]

    def set_latents(self, row: int, latents: Tensor) -> None:
        """Overwrites one picture's latents [1, C, h, w]."""
        x = self.state.x.clone()
        x[row : row + 1] = latents
        self.state = replace(self.state, x=x)


def _joined(bad: Sequence[Tensor | None], states: Sequence[State]) -> Tensor:
    return torch.cat(
        [
            torch.full((len(s.x),), -1, device=s.x.device) if b is None else b
            for b, s in zip(bad, states, strict=True)
        ]
    )
