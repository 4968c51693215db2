"""What `pyengine info --plan` runs of an upscaler: its network on the meta device."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

#: Pixels along a side of the picture that is enlarged, where a call does not say.
SIDE = 64


def rehearse(
    models: Mapping[str, Any], batch: int, height: int | None, width: int | None
) -> Iterator[tuple[str, Callable[[], None]]]:
    """(part, what runs it) for enlarging `batch` pictures whole. height, width: of those that are
    enlarged, 64 where None.
    """
    yield "model", partial(_network, models["model"], batch, height or SIDE, width or SIDE)


def _network(model: Any, batch: int, height: int, width: int) -> None:
    model(torch.empty(batch, 3, height, width, device="meta"))
