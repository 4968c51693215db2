"""What metrics are given: pictures and rows of features."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import RequestError


def check_images(images: Any) -> Tensor:
    """uint8 [N, 3, H, W], of torch or NumPy, as a tensor. Raises RequestError."""
    if isinstance(images, np.ndarray) and images.dtype == np.uint8:
        images = torch.from_numpy(np.ascontiguousarray(images))
    if not isinstance(images, Tensor):
        raise RequestError(
            f"images: expected a uint8 tensor [N, 3, H, W], given {type(images).__name__}"
        )
    shape = list(images.shape)
    if images.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3 or 0 in shape[2:]:
        raise RequestError(
            "images: expected uint8 [N, 3, H, W],"
            f" given {str(images.dtype).removeprefix('torch.')} {shape}"
        )
    return images


def check_rows(name: str, rows: Any) -> Tensor:
    """Finite floating-point [N, D]. Raises RequestError."""
    if not isinstance(rows, Tensor) or rows.ndim != 2 or not rows.is_floating_point():
        given = (
            f"{str(rows.dtype).removeprefix('torch.')} {list(rows.shape)}"
            if isinstance(rows, Tensor)
            else type(rows).__name__
        )
        raise RequestError(f"{name}: expected floating-point numbers [N, D], given {given}")
    if not bool(torch.isfinite(rows).all()):
        raise RequestError(f"{name}: expected finite numbers, given NaN or infinity")
    return rows.detach().cpu()


def check_real(real: Any) -> bool:
    if not isinstance(real, bool):
        raise RequestError(f"real: expected True or False, given {real!r}")
    return real


def check_whole(name: str, value: Any, low: int, high: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise RequestError(f"{name}: expected a whole number from {low} on, given {value!r}")
    if high is not None and value > high:
        raise RequestError(f"{name}: expected at most {high:,}, given {value:,}")
    return value
