"""What `pyengine info --plan` runs of the x2 latent upscaler: its models on the meta device."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from ...errors import RequestError
from ..stable_diffusion.rehearsal import on_meta, rehearse_text, rehearse_vae


def rehearse(
    models: Mapping[str, Any], batch: int, height: int | None, width: int | None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """(part, what runs it) for encoding `batch` prompts, one U-Net call and decoding one picture.

    height, width: of the result in pixels; the model's own size where None.
    """
    unet, vae = models["unet"], models["vae"]
    factor, own = vae.config.downscale, unet.config.sample_size or 64
    unit = factor * unet.config.divisor
    sides = []
    for field, value in (("height", height), ("width", width)):
        if value is not None and (value % unit or value < 2 * unit):
            raise RequestError(
                f"{field}: expected a multiple of {unit}, from {2 * unit} on, given {value}"
            )
        sides.append(own if value is None else value // factor)
    yield "text_encoder", partial(rehearse_text, models["text_encoder"], batch)
    yield "unet", partial(_unet, unet, batch, *sides)
    yield "vae", partial(rehearse_vae, vae, *sides)


def _unet(model: Any, batch: int, height: int, width: int) -> None:
    c = model.config
    context = model.encode_context(on_meta(batch, 77, c.cross_attention_dim))
    sample = on_meta(batch, c.in_channels, height, width)
    model(sample, torch.zeros(1, device="meta"), context, on_meta(batch, c.time_cond_proj_dim))
