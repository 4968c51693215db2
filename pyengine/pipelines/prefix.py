"""A call's `prefix`: the first tokens of a picture, or a picture of its upper rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import images as pictures
from ..decoding.checks import check_tokens
from ..decoding.request import TokenRequest
from ..jobs import checks


def read_prefix(
    prefix: Any,
    r: TokenRequest,
    grid: tuple[int, int],
    factor: int,
    codes: int,
    encode: Callable[[Tensor], Tensor],
) -> Tensor:
    """[N, n] int64: the tokens that every picture of the request begins with, in reading order.

    prefix: tokens [n] for all or [N, n], at least one fewer than a picture has; or a picture (one
    for all, or a list of N) as wide as the request's and less high, by a multiple of `factor`, of
    which `encode` makes tokens [1 or N, n] from [1 or N, 3, H, W] in [0, 1]. grid: (height, width)
    of a picture in tokens; codes: how many tokens there are.
    Raises RequestError.
    """
    length = grid[0] * grid[1]
    if is_picture(prefix):
        tokens = encode(_upper_rows(prefix, r, factor))
    else:
        try:
            tokens = torch.as_tensor(prefix)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            raise checks.refuse("prefix", "tokens or a picture", prefix) from None
        shape = (None,) if tokens.dim() < 2 else (r.count, None)
        tokens = torch.atleast_2d(check_tokens("prefix", tokens, shape, codes))
    if tokens.shape[1] >= length:
        raise checks.refuse("prefix", f"1 to {length - 1} tokens", f"{tokens.shape[1]} tokens")
    return tokens.expand(r.count, -1)


def _upper_rows(prefix: Any, r: TokenRequest, factor: int) -> Tensor:
    items = pictures.as_list(prefix, "prefix")
    if len(items) not in (1, r.count):
        raise checks.refuse("prefix", f"one picture, or {r.count}", f"{len(items)} pictures")
    height, width = pictures.size_of(items[0])
    same = all(pictures.size_of(item) == (height, width) for item in items)
    if not same or width != r.width or height % factor or not 0 < height < r.height:
        given = f"{width}x{height}" if same else "several sizes"
        expected = f"{r.width} pixels wide and less than {r.height} high"
        if factor > 1:
            expected += f", a multiple of {factor}"
        raise checks.refuse("prefix", f"a picture {expected}", given)
    return pictures.to_unit(items, height, width, "prefix")


def is_picture(value: Any) -> bool:
    """Whether a prefix is a picture, or a list of them, and not tokens."""
    if isinstance(value, list | tuple) and value:
        value = value[0]
    if isinstance(value, Tensor | np.ndarray):
        return value.ndim > 2
    return isinstance(value, Image.Image)
