"""What a model is told of a call's pictures besides their latents and the time."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..branches import Row, adapted
from ..cuda import to_device
from ..guidance import NEGATIVE, TEXT
from ..models.unet import TextContext, TimeEmbedding
from ..schedules import Plan
from .denoiser import Encoder
from .image_prompts import ImagePrompt

if TYPE_CHECKING:
    from .controls import Control, Features

#: Timesteps that are embedded together, times rows of conditions: bounds the table's memory. A
#: network that makes more of each has an `embedded_rows` of its own.
EMBEDDED_ROWS = 1024


@dataclass(eq=False)
class Conditions:
    """What a network is told of the N pictures of a call besides latents and time.

    names: the conditions that guidance may name; the rows of each follow each other, N of them, R
    in all. pictures: N, where there is no text to tell.
    text: [R, L, C], or None; text_mask: [R, L], 1 for a token that is seen, of networks that take
    one, or None. added: SDXL's text_embeds and time_ids, with as many rows, or None.
    text_lengths: of each of the N pictures the tokens of its text and of the other conditions',
    where some are shorter than L; () where none is.
    labels: [R] classes or [R, C] vectors, or None. guidance: [1, N or R,
    time_cond_proj_dim], which distilled models are told of it (and the latent upscaler of the
    pooled text), or None.
    extra: [N or R, C, h, w], what the network's input has beside the latents, or None; with
    in_input it is mask and masked: [N or R, 1, h, w] and [N or R, C, h, w], as
    diffusion.latents.Start has them. known, noise: likewise [N, C, h, w]; without noise what is
    known stays clean at every step (DeepFloyd IF).
    adapters: what the network has beside its weights for each of the N pictures (see
    pyengine.branches), or () for none.
    image_prompts: pictures that its cross-attentions read beside the text. controls, features: what
    ControlNets and T2I-Adapters show it of pictures.
    """

    text: Tensor | None = None
    added: dict[str, Tensor] | None = None
    guidance: Tensor | None = None
    labels: Tensor | None = None
    pictures: int | None = None
    names: tuple[str, ...] = (TEXT,)
    mask: Tensor | None = None
    masked: Tensor | None = None
    known: Tensor | None = None
    noise: Tensor | None = None
    in_input: bool = False
    extra: Tensor | None = None
    adapters: Sequence[Row] = ()
    text_mask: Tensor | None = None
    text_lengths: Sequence[int] = ()
    image_prompts: tuple[ImagePrompt, ...] = ()
    controls: tuple["Control", ...] = ()
    features: "Features | None" = None
    #: Counts the changes: what was made of these conditions before one is no longer theirs.
    version: int = 0
    context: TextContext = field(default_factory=lambda: TextContext(()))
    #: By plan: the evaluation that the table begins with, and the table.
    _times: dict[Plan, tuple[int, TimeEmbedding]] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """N, the pictures."""
        if self.text is None:
            return self.pictures or 1
        return len(self.text) // len(self.names)

    @property
    def rows(self) -> int:
        """R, rows of all conditions together."""
        return self.count * len(self.names)

    @property
    def adapters_of_rows(self) -> list[Row]:
        """What the network has beside its weights for each of the R rows; [] for nothing."""
        return [*self.adapters] * len(self.names) if any(self.adapters) else []

    def text_shape(self, picture: int) -> tuple[int, ...] | None:
        """(L, C) of a picture's text; None where there is none."""
        if self.text is None:
            return None
        length = self.text_lengths[picture] if self.text_lengths else self.text.shape[1]
        return length, *self.text.shape[2:]

    def row(self, name: str, picture: int) -> int:
        """Which of the R rows is a picture's under a condition."""
        return self.names.index(name) * self.count + picture

    def extra_row(self, name: str, picture: int) -> int:
        """Which row of `extra` is a picture's under a condition: it has one for each of the R, or
        for each picture, however many conditions there are.
        """
        assert self.extra is not None
        rows = len(self.extra)
        return self.row(name, picture) if rows == self.rows else rows - self.count + picture

    def changed(self, unet: Encoder) -> None:
        """Computes what depends on the conditions: once they are all there, and when some have
        changed.
        """
        self.version += 1
        self._times.clear()
        self.context = TextContext(())
        if self.text is not None:
            with beside(self.adapters_of_rows):
                encode: Any = unet.encode_context  # not every network's takes a mask
                masked = {} if self.text_mask is None else {"attention_mask": self.text_mask}
                self.context = encode(self.text, **masked)
        if self.image_prompts:
            further = tuple(p.attended(self.names) for p in self.image_prompts)
            self.context = replace(self.context, further=further)
        for control in self.controls:
            control.follow(self)
        if self.in_input and self.mask is not None and self.masked is not None:
            rows = max(len(self.mask), len(self.masked))
            both = (_repeated(t, rows) for t in (self.mask, self.masked))
            self.extra = torch.cat(list(both), dim=1)

    def times(self, unet: Encoder, plan: Plan, i: int) -> TimeEmbedding:
        """The embedding of the timestep of evaluation i, for all R rows, or one row where they are
        all alike. As many evaluations as EMBEDDED_ROWS allows are embedded together.
        """
        first, table = self._times.get(plan, (0, None))
        made = len(table.rows[0]) if table is not None and table.rows else 0
        if table is None or not first <= i < first + made:
            first, table = i, self._embed(unet, plan, i)
            self._times[plan] = first, table
        return table[i - first]

    def told_times(self, plan: Plan) -> Sequence[float]:
        """What the network is told of the time at each of a plan's evaluations."""
        return plan.timesteps

    def _embed(self, unet: Encoder, plan: Plan, first: int) -> TimeEmbedding:
        rows = 1 if self.guidance is None else len(self.guidance)
        rows = rows if self.added is None and self.labels is None else self.rows
        most = getattr(unet, "embedded_rows", EMBEDDED_ROWS)
        timesteps = torch.tensor(self.told_times(plan)[first : first + max(1, most // rows)])
        with beside(self.adapters_of_rows):
            return unet.embed_timesteps(
                to_device(timesteps, unet.device),
                timestep_cond=self.guidance,
                class_labels=self.labels,
                added_cond_kwargs=self.added,
            )


def beside(rows: Sequence[Row]) -> AbstractContextManager[None]:
    """Within the block, row i of what a network is given has the adapters rows[i]."""
    return adapted(rows) if any(rows) else nullcontext()


def classifier_free_names(guided: bool) -> tuple[str, ...]:
    """Names of the rows of a call with or without classifier-free guidance."""
    return (NEGATIVE, TEXT) if guided else (TEXT,)


def gather(parts: Sequence[tuple[Tensor, int]]) -> Tensor:
    """One row after the other: of each (tensor, row). A tensor of which all rows are taken in order
    is not copied.
    """
    pieces: list[Tensor] = []
    begin = 0
    while begin < len(parts):
        tensor = parts[begin][0]
        end = begin
        while end < len(parts) and parts[end][0] is tensor:
            end += 1
        rows = [row for _, row in parts[begin:end]]
        if rows == list(range(len(tensor))):
            pieces.append(tensor)
        else:
            pieces.append(tensor[torch.tensor(rows, device=tensor.device)])
        begin = end
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _repeated(t: Tensor, rows: int) -> Tensor:
    return t if len(t) == rows else t.repeat(rows // len(t), 1, 1, 1)
