"""Data-parallel training: each process takes its share of a batch, gradients are averaged.

Without :func:`start` every function here does nothing, so that a training loop
reads the same for one process.  Only the first process writes files.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from ..errors import RequestError

_place = {"rank": 0, "count": 1}


def start(rank: int, count: int, meeting_place: str | os.PathLike[str]) -> None:
    """Join a training of `count` processes; meeting_place: a file that does not exist yet."""
    from torch import distributed

    distributed.init_process_group(
        "gloo",
        init_method=f"file://{os.path.abspath(meeting_place)}",
        rank=rank,
        world_size=count,
        timeout=timedelta(minutes=60),
    )
    _place.update(rank=rank, count=count)


def stop() -> None:
    """Leave the training's process group."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
    _place.update(rank=0, count=1)


def first() -> bool:
    """Whether this process is the one that writes."""
    return _place["rank"] == 0


def check_batch(batch: int) -> None:
    """Raises RequestError for a batch that cannot be shared evenly."""
    if batch % _place["count"]:
        raise RequestError(f"batch: expected a multiple of {_place['count']}, given {batch}")


def share(rows: Any) -> Any:
    """This process's rows of a whole batch."""
    return rows[_place["rank"] :: _place["count"]]


def add_(*tensors: Any) -> None:
    """Sum tensors over the processes, in place and in one message."""
    import torch
    from torch import distributed

    if _place["count"] == 1:
        return
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    distributed.all_reduce(flat)
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.detach().copy_(part.view(tensor.shape))


def average_gradients(parameters: Iterable[Any]) -> None:
    """Make every process's gradients those of the whole batch."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if _place["count"] > 1:
        add_(*gradients)
        for gradient in gradients:
            gradient.div_(_place["count"])


def agree(value: bool) -> bool:
    """The first process's value, in every process; also a barrier."""
    import torch
    from torch import distributed

    if _place["count"] == 1:
        return value
    said = torch.tensor([int(value)])
    distributed.broadcast(said, 0)
    return bool(said.item())


def copy_first_(tensor: Any) -> None:
    """Overwrite the tensor with the first process's."""
    from torch import distributed

    if _place["count"] > 1:
        distributed.broadcast(tensor, 0)
