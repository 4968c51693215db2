"""What `pyengine info --plan` runs of unCLIP: its networks on the meta device."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from ...models import UNet2DConditionModel, UNet2DModel
from ..kandinsky.rehearsal import rehearse_prior, rehearse_text
from .base import square
from .course import DECODER, FIRST, LAST, PRIOR


def rehearse(
    models: Mapping[str, Any], batch: int, height: int | None, width: int | None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """(part, what runs it) for encoding `batch` texts (or pictures) and one call of each network
    with as many rows. height, width: no meaning: the networks' own.
    """
    text = models["text_encoder"].config
    length = text.max_position_embeddings
    if "image_encoder" in models:
        yield "image_encoder", partial(_picture, models["image_encoder"], batch)
    yield "text_encoder", partial(rehearse_text, models["text_encoder"], batch)
    if PRIOR in models:
        yield PRIOR, partial(rehearse_prior, models[PRIOR], batch)
    extra = models["text_proj"].config.clip_extra_context_tokens
    yield DECODER, partial(_decoder, models[DECODER], batch, extra + length)
    for name in (FIRST, LAST):
        yield name, partial(_enlarge, models[name], batch)


def _picture(model: Any, batch: int) -> None:
    c = model.config
    model(torch.empty(batch, c.num_channels, c.image_size, c.image_size, device="meta"))


def _decoder(model: UNet2DConditionModel, batch: int, length: int) -> None:
    c, side = model.config, square(model.config)
    text = torch.empty(batch, length, c.cross_attention_dim, device="meta")
    labels = torch.empty(batch, c.time_dim, device="meta")
    sample = torch.empty(batch, c.in_channels, side, side, device="meta")
    seen = torch.empty(batch, length, device="meta")
    model(sample, 0, text, class_labels=labels, attention_mask=seen)


def _enlarge(model: UNet2DModel, batch: int) -> None:
    side = square(model.config)
    model(torch.empty(batch, model.config.in_channels, side, side, device="meta"), 0)
