"""Checks of token ids that models share. What they look at is on the host, or is waited for."""

import torch
from torch import Tensor

from ..errors import RequestError
from ..ops import visible


def check_range(name: str, ids: Tensor, count: int) -> None:
    """Raises RequestError unless all ids are 0 to count - 1."""
    if not ids.numel() or not visible(ids):
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= count:
        raise RequestError(f"{name}: expected 0 to {count - 1}, got {low} to {high}")


def check_ids(name: str, ids: Tensor, count: int, shape: str = "[N, L]") -> None:
    """The same, and unless they are integers of the dimensions that `shape` names, at least one."""
    if ids.dim() != shape.count(",") + 1 or not ids.numel() or ids.is_floating_point():
        raise RequestError(f"{name}: expected integers {shape}, got {ids.dtype} {list(ids.shape)}")
    check_range(name, ids, count)


def check_length(name: str, lengths: Tensor, count: int, limit: str, most: int) -> None:
    """Raises RequestError where `count` more tokens than a row has, of lengths [N], are more than
    `most`, which the config calls `limit`.
    """
    if not visible(lengths):
        return
    length = int(lengths.max()) + count
    if length > most:
        raise RequestError(f"{name}: expected at most {limit} {most} tokens, got {length}")


def last_of(x: Tensor, ends: Tensor | None) -> Tensor:
    """[N, C]: of each row of x [N, L, C] the last token, or the one at ends [N] int64, where rows
    are filled up behind it to be read together.
    """
    return x[:, -1] if ends is None else x[torch.arange(len(x), device=x.device), ends]
