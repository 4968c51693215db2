"""What `pyengine info --plan` runs of pixel diffusion: its network on the meta device."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from ...models import UNet2DModel


def rehearse(
    models: Mapping[str, Any], batch: int, height: int | None, width: int | None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """(part, what runs it) for one call of the network with `batch` pictures.

    height, width: pixels; the model's own size where None.
    """
    own = models["unet"].config.size or (32, 32)
    yield "unet", partial(_unet, models["unet"], batch, height or own[0], width or own[1])


def _unet(model: UNet2DModel, batch: int, height: int, width: int) -> None:
    c = model.config
    labels = None
    if c.num_class_embeds is not None or c.class_embed_type == "timestep":
        labels = torch.zeros(batch, dtype=torch.long)
    elif c.class_embed_type == "identity":
        labels = torch.zeros(batch, c.time_dim)
    model(torch.empty(batch, c.in_channels, height, width, device="meta"), 0, labels)
