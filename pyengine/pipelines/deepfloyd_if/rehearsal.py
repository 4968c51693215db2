"""What `pyengine info --plan` runs of DeepFloyd IF: its models on the meta device."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from ...models import T5EncoderModel, UNet2DConditionModel
from .pipeline import TOKENS, side_of


def rehearse(
    models: Mapping[str, Any], batch: int, height: int | None, width: int | None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """(part, what runs it) for encoding `batch` prompts and one U-Net call.

    height, width: pixels; the model's own size where None.
    """
    own = side_of(models["unet"].config)
    yield "text_encoder", partial(_text, models["text_encoder"], batch)
    yield "unet", partial(_unet, models["unet"], batch, height or own[0], width or own[1])


def _text(model: T5EncoderModel, batch: int) -> None:
    ids = torch.empty(batch, TOKENS, dtype=torch.long, device="meta")
    model(ids, torch.ones_like(ids))


def _unet(model: UNet2DConditionModel, batch: int, height: int, width: int) -> None:
    c = model.config
    text = torch.empty(batch, TOKENS, c.encoder_hid_dim or c.cross_attention_dim, device="meta")
    labels = None
    if c.class_embed_type == "timestep":  # of the noise on the smaller picture
        labels = torch.empty(batch, dtype=torch.long, device="meta")
    sample = torch.empty(batch, c.in_channels, height, width, device="meta")
    model(sample, 0, text, class_labels=labels)
