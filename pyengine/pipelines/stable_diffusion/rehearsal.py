"""What `pyengine info --plan` runs of Stable Diffusion: its models on the meta device."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...errors import RequestError
from ...models import AutoencoderKL, CLIPTextModelWithProjection, UNet2DConditionModel
from .parts import ENCODERS


def rehearse(
    models: Mapping[str, Any], batch: int, height: int | None, width: int | None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """(part, what runs it) for encoding `batch` prompts, one U-Net call and decoding one picture.

    height, width: pixels; the model's own size where None.
    """
    factor = models["vae"].config.downscale
    own = models["unet"].config.sample_size or 64
    sides = own if isinstance(own, tuple) else (own, own)
    given = []
    for field, value, side in (("height", height, sides[0]), ("width", width, sides[1])):
        if value is not None and value % factor:
            raise RequestError(f"{field}: expected a multiple of {factor}, given {value}")
        given.append(side if value is None else value // factor)
    for name in ENCODERS:
        if name in models:
            yield name, partial(rehearse_text, models[name], batch)
    yield "unet", partial(_unet, models["unet"], batch, *given)
    # A call decodes its pictures one at a time.
    yield "vae", partial(rehearse_vae, models["vae"], *given)


def rehearse_text(model: Any, batch: int) -> None:
    """Encodes `batch` prompts."""
    length = min(77, model.config.max_position_embeddings)
    _, pooled, _ = model.text_model(on_meta(batch, length, dtype=torch.long), None)
    if isinstance(model, CLIPTextModelWithProjection):
        model.text_projection(pooled)


def _unet(model: UNet2DConditionModel, batch: int, height: int, width: int) -> None:
    c = model.config
    widths = c.cross_attention_dim
    width_of_text = widths[0] if isinstance(widths, tuple) else widths
    context = model.encode_context(on_meta(batch, 77, width_of_text))
    given: dict[str, Any] = {}
    if c.addition_embed_type == "text_time":
        # Whatever the split between the pooled text and the numbers, they are as wide together.
        text = c.projection_class_embeddings_input_dim - c.addition_time_embed_dim
        given["added_cond_kwargs"] = {
            "text_embeds": on_meta(batch, text),
            "time_ids": on_meta(batch, 1),
        }
    if c.time_cond_proj_dim is not None:
        given["timestep_cond"] = on_meta(batch, c.time_cond_proj_dim)
    if c.num_class_embeds is not None or c.class_embed_type == "timestep":
        given["class_labels"] = on_meta(batch, dtype=torch.long)
    elif c.class_embed_type == "projection":
        given["class_labels"] = on_meta(batch, c.projection_class_embeddings_input_dim)
    model(on_meta(batch, c.in_channels, height, width), on_meta(1), context, **given)


def rehearse_vae(model: AutoencoderKL, height: int, width: int) -> None:
    """Decodes one picture of latents of this size."""
    model.decode(on_meta(1, model.config.latent_channels, height, width))


def on_meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=dtype, device="meta")
