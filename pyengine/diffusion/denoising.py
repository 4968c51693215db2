"""The loop over a run's model evaluations, and what a callback sees and changes in it."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..cuda import Leash, to_device
from ..finite import all_finite
from ..jobs import checks
from ..jobs.noise import NoiseSource
from ..jobs.output import Report
from ..models import UNet2DConditionModel
from ..progress import progress as progress_bar
from ..schedules import Plan
from ..weights.text import show
from .evaluator import Evaluator
from .latents import Start
from .request import Request
from .watch import Watch

#: Timesteps that are embedded together, times rows of conditions: bounds the table's memory.
EMBEDDED_ROWS = 1024
#: What diffusers shows callbacks beside the latents, and does not read again.
_UNREAD = ("negative_prompt_embeds", "negative_pooled_prompt_embeds", "negative_add_time_ids")


@dataclass
class Conditions:
    """What the U-Net is told besides latents and time, a row per picture.

    text: [N, L, C], or [2 N, L, C] with the N negative rows first where guidance is on.
    added: SDXL's text_embeds and time_ids, with as many rows, or None.
    guidance: [1 or N, time_cond_proj_dim] for distilled models, or None.
    """

    text: Tensor
    added: dict[str, Tensor] | None = None
    guidance: Tensor | None = None


def callback_tensors(xl: bool, distilled: bool, masked: bool) -> tuple[str, ...]:
    """The tensors that a callback may ask for, as diffusers' pipelines document them."""
    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    if xl:
        names += ["add_text_embeds", "add_time_ids", *_UNREAD[1:]]
    if distilled:
        names.append("w_embedding")
    return (*names, "mask", "masked_image_latents") if masked else tuple(names)


class Denoising:
    """A run's latents on their way, with what they depend on."""

    def __init__(
        self, pipe: Any, r: Request, plan: Plan, start: Start, conditions: Conditions,
        noise: NoiseSource, report: Report,
    ):  # fmt: skip
        self.pipe, self.r, self.plan, self.noise, self.report = pipe, r, plan, noise, report
        self.unet: UNet2DConditionModel = pipe.unet
        self.evaluate: Evaluator = pipe._evaluate
        self.watch = Watch(pipe.source, plan, pipe.device)
        self.state, self.start, self.conditions = start.state, start, conditions
        self.count = len(start.state.x)
        self.mask, self.masked = start.mask, start.masked
        self._settings: tuple[Any, Any] | None = None
        self._read_settings()
        self._condition()
        added = conditions.added or {}
        halves = conditions.text, added.get("text_embeds"), added.get("time_ids")
        #: As they were when the run began: what diffusers shows to the end.
        self._unread = {name: self._half(rows) for name, rows in zip(_UNREAD, halves, strict=True)
                        if name in r.callback_inputs}  # fmt: skip

    def run(self, show_progress: bool | None) -> Tensor:
        """The latents after the last step, or after the one that the run was stopped at."""
        plan, report, leash = self.plan, self.report, Leash(self.unet.device)
        self.watch.begin(self.state.x)
        with progress_bar("denoising", sum(plan.ends_step), show_progress) as advance:
            for i in range(len(plan)):
                if self.r.run.interrupted:
                    break
                self._step(i)
                report.evaluations += 1
                leash.step()
                if plan.ends_step[i]:
                    report.steps += 1
                    advance()
                if self.r.callback is not None:
                    self._call_back(i)
        self.watch.end(self.state.x)
        report.interrupted = report.evaluations < len(plan)
        return self.state.x

    def _step(self, i: int) -> None:
        plan, state, start = self.plan, self.state, self.start
        if i not in self._embedded:
            self._embed(i)
        fresh = None
        if plan.draws_noise[i]:
            fresh = self.noise.draw(state.x.shape, plan.noise_dtype or state.x.dtype)
        times = self._times[i - self._embedded.start]
        given = (state, self._rows[i], times, self._context, self._extra)
        state = self.evaluate.step(*given, fresh, self._rescale, self._unguided)
        if start.known is not None and start.noise is not None and self.mask is not None:
            mask = self.mask[: self.count]
            state = plan.keep_known(i, state, start.known, start.noise, mask)
        self.watch.step(i, state.x, partial(self.evaluate.output, *given))
        self.state = state

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
        self.guided = self.pipe._guides(scales)
        self._rows = self.plan.all_rows(self.state.x, scales)
        self._unguided = [k for k, g in enumerate(scales) if self.guided and g <= 1]
        self._rescale: float | list[float] = rescale
        if rescale and self._unguided:
            self._rescale = [0.0 if k in self._unguided else rescale for k in range(self.count)]
        return True

    def _condition(self) -> None:
        """Computes what depends on the conditions, for as many rows as guidance takes."""
        c = self.conditions
        c.text = self._fit("prompt_embeds", c.text)
        if c.added is not None:
            shown = {"text_embeds": "add_text_embeds", "time_ids": "add_time_ids"}
            c.added = {name: self._fit(shown[name], t) for name, t in c.added.items()}
        self._context = self.unet.encode_context(c.text)
        self._embedded = range(0)
        self._extra = None
        if self.start.known is None and self.mask is not None and self.masked is not None:
            mask, masked = (t if self.guided else t[-self.count :]
                            for t in (self.mask, self.masked))  # fmt: skip
            if len(mask) != len(masked):
                mask, masked = (t.repeat(2 * self.count // len(t), 1, 1, 1) for t in (mask, masked))
            self._extra = torch.cat([mask, masked], dim=1)

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

    def _embed(self, first: int) -> None:
        """Embeds the timesteps from evaluation `first` on, as many as EMBEDDED_ROWS allows."""
        c = self.conditions
        rows = 1 if c.guidance is None else len(c.guidance)
        rows = rows if c.added is None else len(c.text)
        many = max(1, EMBEDDED_ROWS // rows)
        self._embedded = range(first, min(first + many, len(self.plan)))
        timesteps = torch.tensor(self.plan.timesteps[first : first + many])
        self._times = self.unet.embed_timesteps(
            to_device(timesteps, self.unet.device),
            timestep_cond=c.guidance,
            added_cond_kwargs=c.added,
        )

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
        self.watch.called_back(i, self.state.x)
        if self._read_settings() or changed:
            self._condition()

    def _shown(self, name: str) -> Tensor | None:
        c = self.conditions
        if name in _UNREAD:
            return self._unread[name]
        if name in ("mask", "masked_image_latents"):
            t = self.mask if name == "mask" else self.masked
            return t if t is None or not self.guided or len(t) > self.count else torch.cat([t, t])
        if name == "w_embedding":
            return None if c.guidance is None else c.guidance.expand(self.count, -1).contiguous()
        if name in ("add_text_embeds", "add_time_ids"):
            return (c.added or {}).get(name.removeprefix("add_"))
        return {"latents": self.state.x, "prompt_embeds": c.text}[name]

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
            self.state = dataclasses.replace(self.state, x=new)
            return False
        if name == "prompt_embeds":
            c.text = new
        elif name == "w_embedding":
            c.guidance = new
        elif name == "mask":
            self.mask = new
        elif name == "masked_image_latents":
            self.masked = new
        else:
            c.added = {**(c.added or {}), name.removeprefix("add_"): new}
        return True


def _version(tensor: Tensor | None) -> int | None:
    """How often the tensor was written to: callbacks may change in place what they are shown."""
    return None if tensor is None or tensor.is_inference() else tensor._version
