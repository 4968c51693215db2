"""What `pyengine info --plan` runs of BigGAN: its generator on the meta device."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from ...models import BigGAN
from ..one_pass import check_own_size


def rehearse(
    models: Mapping[str, Any], batch: int, height: int | None, width: int | None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """(part, what runs it) for `batch` pictures of the model's own size, all that it makes."""
    model = models["model"]
    check_own_size(model.config.output_dim, height, width)
    yield "model", partial(_generator, model, batch)


def _generator(model: BigGAN, batch: int) -> None:
    z = torch.empty(batch, model.config.z_dim, device="meta")
    model(z, torch.zeros(batch, dtype=torch.long), 1.0)
