"""The pictures of one call on their way from noise, and what its callback sees and changes."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..cuda import Leash
from ..finite import all_finite
from ..guidance import Guidance, classifier_free
from ..jobs import checks
from ..jobs.job import Call
from ..jobs.noise import NoiseSource, PictureNoise
from ..jobs.output import Report
from ..jobs.request import RequestT
from ..schedules import Plan, State
from .conditions import Conditions
from .evaluator import Evaluator
from .job import Batch, DenoisingJob
from .watch import check_answer, check_noted, check_start, note


class DenoisingCall(Call[RequestT, DenoisingJob]):
    """The jobs of one call, all of one plan, with the conditions that they share.

    pipe: what the callback gets. evaluate: of the pipeline's network. state: of all N pictures.
    guidance: of each picture; None: none has any. The callback sees and may change the latents.
    """

    stage, title = "denoise", "denoising"

    def __init__(
        self,
        pipe: Any,
        evaluate: Evaluator,
        r: RequestT,
        plan: Plan,
        state: State,
        conditions: Conditions,
        noise: NoiseSource,
        report: Report,
        guidance: Sequence[Guidance] | None = None,
    ):
        self.pipe, self.plan = pipe, plan
        self.unet, self.conditions, self.count = evaluate.unet, conditions, len(state.x)
        self.leash = Leash(self.unet.device)
        own = PictureNoise.of_call(noise, self.count)
        seeds = r.seeds or [None] * self.count
        guidance = guidance or [classifier_free(1.0)] * self.count
        jobs = [
            DenoisingJob(
                r.run, i, seeds[i], plan, conditions, guidance[i], 0.0, own[i], pipe.source
            )
            for i in range(self.count)
        ]
        super().__init__(r, report, jobs)
        Batch(jobs, state)
        check_start(pipe.source, state.x)

    @property
    def total(self) -> int:
        return sum(self.plan.ends_step)

    def stepped(self, jobs: Sequence[DenoisingJob]) -> int:
        self.raise_error()
        i = jobs[0].position - 1
        self.report.evaluations += 1
        self.report.steps += self.plan.ends_step[i]
        self.leash.step()
        if self.request.callback is not None:
            self._call_back(i)
        return int(self.plan.ends_step[i])

    def seen(self) -> tuple[Tensor, Any]:
        return self.latents().clone(), max(self.jobs, key=lambda job: job.position).timestep

    def end(self) -> None:
        check_noted(self.jobs)
        super().end()

    def latents(self) -> Tensor:
        """[N, C, h, w], of all pictures."""
        batch = self.jobs[0].batch
        if batch.holds(self.jobs):
            return batch.state.x
        return torch.cat([job.latents for job in self.jobs])

    def _set_latents(self, new: Tensor) -> None:
        batch = self.jobs[0].batch
        if batch.holds(self.jobs):
            batch.state = dataclasses.replace(batch.state, x=new)
            return
        for k, job in enumerate(self.jobs):
            job.batch.set_latents(job.row, new[k : k + 1])

    # --- the callback -----------------------------------------------------------------------------

    def _call_back(self, i: int) -> bool:
        """Shows the callback what it asked for and goes on with what it gives back; after
        StopSampling with everything as it was. Whether conditions have changed.
        """
        shown = {name: self._shown(name) for name in self.request.callback_inputs}
        versions = {name: version_of(t) for name, t in shown.items()}
        given = dict(shown)
        answer = checks.call_back(self.pipe, self.request, i, self.plan.timesteps[i], given)
        changed = False
        for name in dict.fromkeys([*shown, *answer]):
            old = shown[name] if name in shown else self._shown(name)
            new = answer.get(name, old)
            if new is not old or version_of(old) != versions.get(name, version_of(old)):
                changed = self._take(name, new, old) or changed
        self._check_answer(i)
        return changed

    def _check_answer(self, i: int) -> None:
        if self.unet.device.type != "cuda":
            check_answer(i, self.latents())
            return
        for batch in dict.fromkeys(job.batch for job in self.jobs):
            jobs = [job for job in self.jobs if job.batch is batch]
            note(batch, jobs, [2 * job.position - 1 for job in jobs])

    def _shown(self, name: str) -> Tensor | None:
        """What the callback gets under a name; here the latents."""
        return self.latents()

    def _take(self, name: str, new: Any, old: Tensor | None) -> bool:
        """Goes on with `new` in place of `old`; says whether conditions depend on it."""
        self._set_latents(self._fitting(name, new, old, {self.count}))
        return False

    @staticmethod
    def _fitting(
        name: str, new: Any, old: Tensor | None, rows: set[int], free: tuple[int, ...] = ()
    ) -> Tensor:
        """`new` as a tensor of the shape, dtype and device of `old`, with as many rows as one of
        `rows`; free: dimensions of any size.
        """
        fits = (
            isinstance(new, Tensor)
            and old is not None
            and new.dim() == old.dim()
            and all(
                n == m or d in free
                for d, (n, m) in enumerate(zip(new.shape, old.shape, strict=True))
                if d
            )
        )
        if old is None or not fits or len(new) not in rows or not new.is_floating_point():
            shape = [] if old is None else list(old.shape)
            raise checks.refuse(
                f"callback_on_step_end: {name}",
                f"a float tensor {shape} back",
                getattr(new, "shape", new),
            )
        made: Tensor = new.to(old.device, old.dtype)
        if name != "latents" and not all_finite(made):
            raise checks.refuse(
                f"callback_on_step_end: {name}", "finite values back", "NaN or infinity"
            )
        return made


def version_of(tensor: Tensor | None) -> int | None:
    """How often the tensor was written to: callbacks may change in place what they are shown."""
    return None if tensor is None or tensor.is_inference() else tensor._version
