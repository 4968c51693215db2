"""The pictures of one call on their way from noise, and what its callback sees and changes."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..cuda import Leash
from ..finite import all_finite
from ..guidance import classifier_free
from ..jobs import checks
from ..jobs.job import Call
from ..jobs.noise import NoiseSource, PictureNoise
from ..jobs.output import Report
from ..schedules import Plan
from ..weights.text import show
from .conditions import Conditions, classifier_free_names
from .evaluator import Evaluator
from .job import Batch, DenoisingJob
from .latents import Start
from .request import Request
from .step import step
from .watch import check_answer, check_noted, check_start, note

#: What diffusers shows callbacks beside the latents, and does not read again.
_UNREAD = ("negative_prompt_embeds", "negative_pooled_prompt_embeds", "negative_add_time_ids")


def callback_tensors(xl: bool, distilled: bool, masked: bool) -> tuple[str, ...]:
    """The tensors that a callback may ask for, as diffusers' pipelines document them."""
    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    if xl:
        names += ["add_text_embeds", "add_time_ids", *_UNREAD[1:]]
    if distilled:
        names.append("w_embedding")
    return (*names, "mask", "masked_image_latents") if masked else tuple(names)


class DenoisingCall(Call):
    """The jobs of one call, all of one plan, with the conditions that they share.

    pipe: what the callback gets. evaluate: of the pipeline's U-Net. guides: whether a call with
    such guidance scales takes negative rows.
    """

    stage, title = "denoise", "denoising"
    jobs: list[DenoisingJob]  # type: ignore[assignment]  # narrower than Call's

    def __init__(
        self, pipe: Any, evaluate: Evaluator, guides: Callable[[Sequence[float]], bool],
        r: Request, plan: Plan, start: Start, conditions: Conditions, noise: NoiseSource,
        report: Report,
    ):  # fmt: skip
        self.pipe, self.evaluate, self.guides, self.r, self.plan = pipe, evaluate, guides, r, plan
        self.unet, self.conditions, self.count = evaluate.unet, conditions, len(start.state.x)
        self.leash = Leash(self.unet.device)
        conditions.mask, conditions.masked = start.mask, start.masked
        conditions.known, conditions.noise = start.known, start.noise
        conditions.in_input = start.known is None
        own = PictureNoise.of_call(noise, self.count)
        seeds = r.seeds or [None] * self.count
        jobs = [
            DenoisingJob(r.run, i, seeds[i], plan, conditions, classifier_free(1.0), 0.0, own[i],
                         pipe.source)
            for i in range(self.count)
        ]  # fmt: skip
        super().__init__(r, report, jobs)
        Batch(jobs, start.state)
        check_start(pipe.source, start.state.x)
        self._settings: tuple[Any, Any] | None = None
        self._read_settings()
        self._condition()
        added = conditions.added or {}
        halves = conditions.text, added.get("text_embeds"), added.get("time_ids")
        #: As they were when the run began: what diffusers shows to the end.
        self._unread = {name: self._half(rows) for name, rows in zip(_UNREAD, halves, strict=True)
                        if name in r.callback_inputs}  # fmt: skip

    @property
    def total(self) -> int:
        return sum(self.plan.ends_step)

    def tick(self) -> int:
        jobs = [job for job in self.jobs if job.active]
        if not jobs:  # cancelled from another thread since the loop looked
            return 0
        i = jobs[0].position
        step(self.evaluate, jobs)
        self.raise_error()
        self.report.evaluations += 1
        self.report.steps += self.plan.ends_step[i]
        self.leash.step()
        if self.r.callback is not None:
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

    # --- what the steps depend on -----------------------------------------------------------------

    def _read_settings(self) -> bool:
        """Takes over the run's guidance, which callbacks change through the pipeline
        (`pipe._guidance_scale = 0.0`); says whether it was another.
        """
        settings = self.r.run.settings
        asked = settings["guidance_scale"], settings["guidance_rescale"]
        if asked == self._settings:
            return False
        scales = checks.guidance_scales("guidance_scale", asked[0], self.count)
        rescale = checks.real("guidance_rescale", asked[1], 0, 1)
        self._settings = asked
        self.guided = self.guides(scales)
        for job, scale in zip(self.jobs, scales, strict=True):
            job.guidance = classifier_free(scale if self.guided else 1.0)
            job.guidance_rescale = rescale
        return True

    def _condition(self) -> None:
        """Computes what depends on the conditions, for as many rows as guidance takes."""
        c = self.conditions
        c.text = self._fit("prompt_embeds", c.text)
        if c.added is not None:
            shown = {"text_embeds": "add_text_embeds", "time_ids": "add_time_ids"}
            c.added = {name: self._fit(shown[name], t) for name, t in c.added.items()}
        c.names = classifier_free_names(self.guided)
        c.changed(self.unet)

    def _fit(self, name: str, rows: Tensor) -> Tensor:
        """As many rows as guidance takes: without it the negative ones are left out."""
        wanted = 2 * self.count if self.guided else self.count
        if len(rows) == wanted:
            return rows
        if len(rows) == 2 * wanted:
            return rows[wanted:]
        scale = self.r.run.settings["guidance_scale"]
        raise checks.refuse(f"callback_on_step_end: {name}", f"{wanted} rows, since guidance_scale"
                            f" is {show(scale)}", f"{len(rows)} rows")  # fmt: skip

    def _half(self, rows: Tensor | None) -> Tensor | None:
        """The negative rows; None without guidance."""
        return rows[: self.count].clone() if rows is not None and self.guided else None

    # --- the callback -----------------------------------------------------------------------------

    def _call_back(self, i: int) -> None:
        """Shows the callback what it asked for and goes on with what it gives back; after
        StopSampling with everything as it was.
        """
        shown = {name: self._shown(name) for name in self.r.callback_inputs}
        versions = {name: _version(t) for name, t in shown.items()}
        given = dict(shown)
        answer = checks.call_back(self.pipe, self.r, i, self.plan.timesteps[i], given)
        changed = False
        for name in dict.fromkeys([*shown, *answer]):
            old = shown[name] if name in shown else self._shown(name)
            new = answer.get(name, old)
            if new is not old or _version(old) != versions.get(name, _version(old)):
                changed = self._take(name, new, old) or changed
        self._check_answer(i)
        if self._read_settings() or changed:
            self._condition()

    def _check_answer(self, i: int) -> None:
        if self.unet.device.type != "cuda":
            check_answer(i, self.latents())
            return
        for batch in dict.fromkeys(job.batch for job in self.jobs):
            jobs = [job for job in self.jobs if job.batch is batch]
            note(batch, jobs, [2 * job.position - 1 for job in jobs])

    def _shown(self, name: str) -> Tensor | None:
        c = self.conditions
        if name in _UNREAD:
            return self._unread[name]
        if name in ("mask", "masked_image_latents"):
            t = c.mask if name == "mask" else c.masked
            return t if t is None or not self.guided or len(t) > self.count else torch.cat([t, t])
        if name == "w_embedding":
            return None if c.guidance is None else c.guidance.expand(self.count, -1).contiguous()
        if name in ("add_text_embeds", "add_time_ids"):
            return (c.added or {}).get(name.removeprefix("add_"))
        return self.latents() if name == "latents" else c.text

    def _take(self, name: str, new: Any, old: Tensor | None) -> bool:
        """Goes on with `new` in place of `old`; says whether conditions depend on it."""
        c = self.conditions
        if name in _UNREAD:
            self.report.warnings.append(
                f"callback_on_step_end: a changed {name} has no effect, as in diffusers; the"
                " negative rows are the first half of the tensors that hold both"
            )
            return False
        rows = {self.count} if name in ("latents", "w_embedding") else {self.count, 2 * self.count}
        free = (1,) if name == "prompt_embeds" else ()  # the text's length
        fits = isinstance(new, Tensor) and old is not None and new.dim() == old.dim() and all(
            n == m or d in free for d, (n, m) in enumerate(zip(new.shape, old.shape, strict=True))
            if d
        )  # fmt: skip
        if old is None or not fits or len(new) not in rows or not new.is_floating_point():
            shape = [] if old is None else list(old.shape)
            raise checks.refuse(f"callback_on_step_end: {name}", f"a float tensor {shape} back",
                                getattr(new, "shape", new))  # fmt: skip
        new = new.to(old.device, old.dtype)
        if name != "latents" and not all_finite(new):
            raise checks.refuse(f"callback_on_step_end: {name}", "finite values back",
                                "NaN or infinity")  # fmt: skip
        if name == "latents":
            self._set_latents(new)
            return False
        if name == "prompt_embeds":
            c.text = new
        elif name == "w_embedding":
            c.guidance = new
        elif name == "mask":
            c.mask = new
        elif name == "masked_image_latents":
            c.masked = new
        else:
            c.added = {**(c.added or {}), name.removeprefix("add_"): new}
        return True


def _version(tensor: Tensor | None) -> int | None:
    """How often the tensor was written to: callbacks may change in place what they are shown."""
    return None if tensor is None or tensor.is_inference() else tensor._version
