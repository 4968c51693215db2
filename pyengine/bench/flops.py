"""Operations and bytes that a model needs by its definition, counted on the meta device."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .. import ops
from ..models.base import Model


def model_work(
    cls: type[Model],
    config: dict[str, Any],
    prepare: Callable[[Model], Callable[[], torch.Tensor]],
    itemsize: int = 4,
) -> tuple[int, int]:
    """(multiplications and additions of all products, bytes of weights and result at `itemsize`).

    prepare: returns the call to count; its tensors will be on the meta device. Counted over the
    specifications: direct convolution at the output's size, full attention.
    """
    model = cls.from_config(dict(config))
    with torch.device("meta"), ops.force("reference"):
        call = prepare(model)
        with FlopCounterMode(display=False) as counter:
            result = call()
    weights = sum(p.numel() for p in model.parameters())
    return counter.get_total_flops(), itemsize * (weights + result.numel())
