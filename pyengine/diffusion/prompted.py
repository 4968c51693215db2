"""The pictures of a call that is told texts, and what its callback changes of them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..guidance import classifier_free
from ..jobs import checks
from ..jobs.noise import NoiseSource
from ..jobs.output import Report
from ..schedules import Plan
from ..weights.text import show
from .call import DenoisingCall
from .conditions import Conditions
from .evaluator import Evaluator
from .latents import Start
from .request import Request

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


class PromptedCall(DenoisingCall[Request]):
    """The jobs of a call with classifier-free guidance by texts.

    guides: whether a call with such guidance scales takes negative rows.
    """

    def __init__(
        self,
        pipe: Any,
        evaluate: Evaluator,
        guides: Callable[[Sequence[float]], bool],
        r: Request,
        plan: Plan,
        start: Start,
        conditions: Conditions,
        noise: NoiseSource,
        report: Report,
    ):
        conditions.mask, conditions.masked = start.mask, start.masked
        conditions.known, conditions.noise = start.known, start.noise
        conditions.in_input = start.known is None
        super().__init__(pipe, evaluate, r, plan, start.state, conditions, noise, report)
        self.guides = guides
        for job in self.jobs:
            job.caching = r.caching
        self._settings: tuple[Any, Any] | None = None
        self._read_settings()
        self._condition()
        added = conditions.added or {}
        halves = conditions.text, added.get("text_embeds"), added.get("time_ids")
        #: As they were when the run began: what diffusers shows to the end.
        self._unread = {
            name: self._half(rows)
            for name, rows in zip(_UNREAD, halves, strict=True)
            if name in r.callback_inputs
        }

    # --- what the steps depend on -----------------------------------------------------------------

    def _read_settings(self) -> bool:
        """Takes over the run's guidance, which callbacks change through the pipeline
        (`pipe._guidance_scale = 0.0`); says whether it was another.
        """
        settings, method = self.request.run.settings, self.request.method
        asked = settings["guidance_scale"], settings["guidance_rescale"]
        if asked == self._settings:
            return False
        scales = checks.guidance_scales("guidance_scale", asked[0], self.count)
        method.check(scales)
        rescale = checks.real("guidance_rescale", asked[1], 0, 1)
        self._settings = asked
        self.guided = self.guides(scales)
        for job, scale in zip(self.jobs, scales, strict=True):
            job.guidance = method.guidance(scale) if self.guided else classifier_free(1.0)
            job.guidance_rescale = rescale
        return True

    def _condition(self) -> None:
        """Computes what depends on the conditions, for as many rows as guidance takes."""
        c = self.conditions
        assert c.text is not None
        c.text = self._fit("prompt_embeds", c.text)
        if c.added is not None:
            shown = {"text_embeds": "add_text_embeds", "time_ids": "add_time_ids"}
            c.added = {name: self._fit(shown[name], t) for name, t in c.added.items()}
        c.names = self.request.method.names(self.guided)
        c.changed(self.unet)

    def _fit(self, name: str, rows: Tensor) -> Tensor:
        """As many rows as guidance takes: without it the first ones are left out, which are those
        of other conditions than the prompt.
        """
        wanted = self.count * len(self.request.method.names(self.guided))
        if len(rows) == wanted:
            return rows
        if len(rows) > wanted and len(rows) % wanted == 0 and wanted == self.count:
            return rows[-wanted:]
        scale = self.request.run.settings["guidance_scale"]
        raise checks.refuse(
            f"callback_on_step_end: {name}",
            f"{wanted} rows, since guidance_scale is {show(scale)}",
            f"{len(rows)} rows",
        )

    def _half(self, rows: Tensor | None) -> Tensor | None:
        """The negative rows, which are those before the last; None without guidance."""
        if rows is None or not self.guided:
            return None
        return rows[-2 * self.count : -self.count].clone()

    # --- the callback -----------------------------------------------------------------------------

    def _call_back(self, i: int) -> bool:
        changed = super()._call_back(i)
        if self._read_settings() or changed:
            self._condition()
        return changed

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
        c = self.conditions
        if name in _UNREAD:
            self.report.warnings.append(
                f"callback_on_step_end: a changed {name} has no effect, as in diffusers; the"
                " negative rows are the first half of the tensors that hold both"
            )
            return False
        if name == "latents":
            return super()._take(name, new, old)
        rows = {self.count, self.count * len(self.request.method.names(True))}
        rows = {self.count} if name == "w_embedding" else rows
        free = (1,) if name == "prompt_embeds" else ()  # the text's length
        new = self._fitting(name, new, old, rows, free)
        if name == "prompt_embeds":
            if c.text is not None and new.shape[1] != c.text.shape[1]:
                c.text_lengths = ()
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
