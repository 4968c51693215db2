"""What `pyengine info --plan` runs of Kandinsky's decoder: its networks on the meta device."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from ...errors import RequestError
from ...models import (
    CLIPTextModelWithProjection,
    PriorTransformer,
    UNet2DConditionModel,
    VQModel,
)
from .pipeline import SIDE, rounded


def rehearse(
    models: Mapping[str, Any], batch: int, height: int | None, width: int | None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """(part, what runs it) for one U-Net call with `batch` rows, and decoding one picture; with a
    prior before them for its parts too, with as many rows.

    height, width: pixels, rounded up as a call's are; 512 where None.
    """
    factor = models["movq"].config.downscale
    sides = [rounded(side or SIDE, factor) // factor for side in (height, width)]
    if "prior_prior" in models:
        text = models["prior_text_encoder"]
        yield "prior_text_encoder", partial(rehearse_text, text, batch)
        yield "prior_prior", partial(rehearse_prior, models["prior_prior"], batch)
    yield "unet", partial(_unet, models["unet"], batch, *sides)
    # A call decodes its pictures one at a time.
    yield "movq", partial(_movq, models["movq"], *sides)


def rehearse_alone(
    models: Mapping[str, Any], batch: int, height: int | None, width: int | None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """(part, what runs it) for a prior's texts and one call of it, `batch` rows each. It makes
    embeddings: height and width have no meaning.
    """
    if height is not None or width is not None:
        name = "width" if height is None else "height"
        raise RequestError(f"{name}: expected none, since a prior makes no picture")
    yield "text_encoder", partial(rehearse_text, models["text_encoder"], batch)
    yield "prior", partial(rehearse_prior, models["prior"], batch)


def rehearse_text(model: CLIPTextModelWithProjection, batch: int) -> None:
    """Encoding texts."""
    shape = batch, model.config.max_position_embeddings
    model(torch.empty(shape, dtype=torch.long, device="meta"))


def rehearse_prior(model: PriorTransformer, batch: int) -> None:
    """One call of a prior."""
    c = model.config
    embeds = torch.empty(batch, c.embedding_dim, device="meta")
    tokens = torch.empty(batch, c.num_embeddings, c.embedding_dim, device="meta")
    seen = torch.empty(batch, c.num_embeddings, device="meta")
    model(embeds, 0, torch.empty(batch, c.projected_dim, device="meta"), tokens, seen)


def _unet(model: UNet2DConditionModel, batch: int, height: int, width: int) -> None:
    embeds = torch.empty(batch, model.config.encoder_hid_dim or 1, device="meta")
    sample = torch.empty(batch, model.config.in_channels, height, width, device="meta")
    # With a hint, which is made of a picture once a call, its channels lie beside the sample's.
    model(sample, 0, None, added_cond_kwargs={"image_embeds": embeds})


def _movq(model: VQModel, height: int, width: int) -> None:
    z = torch.empty(1, model.config.latent_channels, height, width, device="meta")
    model.decode(z, force_not_quantize=True)
