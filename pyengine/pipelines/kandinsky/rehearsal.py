"""What `pyengine info --plan` runs of Kandinsky's decoder: its networks on the meta device."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from ...models import UNet2DConditionModel, VQModel
from .pipeline import SIDE, rounded


def rehearse(
    models: Mapping[str, Any], batch: int, height: int | None, width: int | None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """(part, what runs it) for one U-Net call with `batch` rows, and decoding one picture.

    height, width: pixels, rounded up as a call's are; 512 where None.
    """
    factor = models["movq"].config.downscale
    sides = [rounded(side or SIDE, factor) // factor for side in (height, width)]
    yield "unet", partial(_unet, models["unet"], batch, *sides)
    # A call decodes its pictures one at a time.
    yield "movq", partial(_movq, models["movq"], *sides)


def _unet(model: UNet2DConditionModel, batch: int, height: int, width: int) -> None:
    embeds = torch.empty(batch, model.config.encoder_hid_dim or 1, device="meta")
    sample = torch.empty(batch, model.config.in_channels, height, width, device="meta")
    model(sample, 0, None, added_cond_kwargs={"image_embeds": embeds})


def _movq(model: VQModel, height: int, width: int) -> None:
    z = torch.empty(1, model.config.latent_channels, height, width, device="meta")
    model.decode(z, force_not_quantize=True)
