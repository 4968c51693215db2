"""What `pyengine info --plan` runs of DiT: its networks on the meta device."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from ...errors import RequestError
from ...models import AutoencoderKL, DiTTransformer2DModel


def rehearse(
    models: Mapping[str, Any], batch: int, height: int | None, width: int | None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """(part, what runs it) for one call of the transformer with `batch` rows, and decoding one
    picture. height, width: pixels; the model's own size where None.
    """
    c, factor = models["transformer"].config, models["vae"].config.downscale
    sides = []
    for name, value in (("height", height), ("width", width)):
        if value is not None and value % (factor * c.patch_size):
            raise RequestError(
                f"{name}: expected a multiple of {factor * c.patch_size}, given {value}"
            )
        sides.append(c.sample_size if value is None else value // factor)
    yield "transformer", partial(_transformer, models["transformer"], batch, *sides)
    # A call decodes its pictures one at a time.
    yield "vae", partial(_vae, models["vae"], *sides)


def _transformer(model: DiTTransformer2DModel, batch: int, height: int, width: int) -> None:
    sample = torch.empty(batch, model.config.in_channels, height, width, device="meta")
    model(sample, 0, torch.zeros(batch, dtype=torch.long))


def _vae(model: AutoencoderKL, height: int, width: int) -> None:
    model.decode(torch.empty(1, model.config.latent_channels, height, width, device="meta"))
