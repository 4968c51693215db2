"""What `pyengine info --plan` runs of pixel diffusion by text: its network on the meta device."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

from ...models import PatchTransformer


def rehearse(
    models: Mapping[str, Any], batch: int, height: int | None, width: int | None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """(part, what runs it) for one call of the network with `batch` pictures of its one size."""
    yield "network", partial(run_network, models["network"], batch)


def run_network(model: PatchTransformer, batch: int) -> None:
    """One call of a network on the meta device."""
    c = model.config
    sample = torch.empty(batch, c.in_channels, c.sample_size, c.sample_size, device="meta")
    model(sample, 0, torch.zeros(batch, c.vector_size))
