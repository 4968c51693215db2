"""What `pyengine info --plan` runs of a DCGAN: its generator on the meta device."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from ...models import DCGANGenerator
from ..one_pass import check_own_size


def rehearse(
    models: Mapping[str, Any], batch: int, height: int | None, width: int | None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """(part, what runs it) for `batch` pictures of the model's own size, all that it makes."""
    model = models["model"]
    check_own_size(model.config.sample_size, height, width)
    yield "model", partial(_generator, model, batch)


def _generator(model: DCGANGenerator, batch: int) -> None:
    model(torch.empty(batch, model.config.latent_channels, 1, 1, device="meta"))
