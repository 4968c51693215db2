"""What lies between the kernels: rows behind one another, halved and enlarged pictures, norms that
a time scales and shifts.

On the CPU by kernels of ours, which recordings can repeat and which leave torch's threads asleep:
those look for work for milliseconds after each of its ops, beside our own. Elsewhere, and where a
gradient goes through, plain torch, of the same bits. `joined` and `enlarged` copy; the others
compute in float32.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from . import _memory
from ._core import DTYPES, address, core

_PLAIN = (Tensor, torch.nn.Parameter)


def joined(first: Tensor, second: Tensor) -> Tensor:
    """[N, A, C] and [N, B, C] -> [N, A + B, C]: torch.cat in dimension 1."""
    if not _ours(first, second) or 1 not in (first.stride(2), first.shape[2]):
        return torch.cat([first, second], dim=1)
    n, rows, width = first.shape
    y = _memory.empty((n, rows + second.shape[1], width), first.dtype)
    size = first.itemsize
    if second.stride(2) != 1:
        second = second.contiguous()
    args = core().JoinArgs(
        first=address(first),
        second=address(second),
        y=address(y),
        pictures=n,
        first_rows=rows,
        second_rows=second.shape[1],
        bytes=width * size,
        first_picture=first.stride(0) * size,
        first_row=first.stride(1) * size,
        second_picture=second.stride(0) * size,
        second_row=second.stride(1) * size,
    )
    core().join_rows(args, torch.get_num_threads())
    return y


def beside_ones(x: Tensor) -> Tensor:
    """[..., C] -> [..., 2 C]: ones, and x beside them, for the gated activations."""
    if not _ours(x) or not x.numel():
        return torch.cat([torch.ones_like(x), x], dim=-1)
    width = x.shape[-1]
    rows = x.contiguous().view(-1, 1, width)
    ones = _all(1, width, x.dtype).view(1, 1, width).expand(len(rows), 1, width)
    return joined(ones, rows).view(*x.shape[:-1], 2 * width)


def halved(x: Tensor) -> Tensor:
    """[N, H, W, C] -> [N, H // 2, W // 2, C]: the mean of every 2x2 pixels; an odd last row or
    column is left out. Summed in a fixed order, in float32 for 16-bit floats.
    """
    n, height, width, channels = x.shape
    size = height // 2, width // 2
    if _ours(x) and x.dtype == torch.float32:
        x = x.contiguous()
        y = _memory.empty((n, *size, channels), x.dtype)
        core().halve(_resized(x, y), torch.get_num_threads())
        return y
    x = x[:, : 2 * size[0], : 2 * size[1]]
    pairs = x.reshape(n, size[0], 2, size[1], 2, channels)
    wide = pairs if x.dtype.itemsize > 2 else pairs.float()
    upper = wide[:, :, 0, :, 0] + wide[:, :, 0, :, 1]
    lower = wide[:, :, 1, :, 0] + wide[:, :, 1, :, 1]
    mean: Tensor = (upper + lower) * 0.25
    return mean.to(x.dtype)


def enlarged(x: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, H, W, C] -> [N, *size, C], each pixel from the source pixel that it falls into."""
    if _ours(x):
        x = x.contiguous()
        y = _memory.empty((len(x), *size, x.shape[3]), x.dtype)
        core().enlarge(_resized(x, y), x.itemsize, torch.get_num_threads())
        return y
    rows, columns = (
        torch.arange(new, device=x.device) * old // new
        for old, new in zip(x.shape[1:3], size, strict=True)
    )
    return x[:, rows][:, :, columns]


def _resized(x: Tensor, y: Tensor) -> Any:
    """As the kernels take pictures of two sizes."""
    n, height, width, channels = x.shape
    return core().ResizeArgs(
        x=address(x),
        y=address(y),
        pictures=n,
        height=height,
        width=width,
        channels=channels,
        height_out=y.shape[1],
        width_out=y.shape[2],
    )


def modulated(scale: Tensor, shift: Tensor, by: Tensor) -> tuple[Tensor, Tensor]:
    """(x * scale + shift) * (1 + s) + t as one scale and shift.

    scale, shift: [N, C] float32 or float64; by: [N, 2 C], s beside t.
    """
    if _ours(scale, shift, by) and scale.dtype == by.dtype == torch.float32:
        scale, shift, by = scale.contiguous(), shift.contiguous(), by.contiguous()
        new_scale, new_shift = (_memory.empty(scale.shape, torch.float32) for _ in range(2))
        args = core().ModulateArgs(
            scale=address(scale),
            shift=address(shift),
            by=address(by),
            scale_out=address(new_scale),
            shift_out=address(new_shift),
            pictures=scale.shape[0],
            channels=scale.shape[1],
        )
        core().modulate(args)
        return new_scale, new_shift
    s, t = (part.to(scale.dtype) for part in by.chunk(2, dim=1))
    return scale * (1 + s), shift * (1 + s) + t


def padded(mask: Tensor, length: int) -> Tensor:
    """[N, L] -> [N, length], zeros behind."""
    if not _ours(mask):
        return torch.nn.functional.pad(mask, (0, length - mask.shape[1]))
    rest = length - mask.shape[1]
    zeros = _all(0, rest, mask.dtype).view(1, rest, 1).expand(len(mask), rest, 1)
    return joined(mask[:, :, None], zeros)[:, :, 0]


@cache
def _all(value: int, count: int, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.full((count,), value, dtype=dtype)


def divide_(x: Tensor, by: float) -> Tensor:
    """x / by, written over x."""
    if _ours(x) and x.dtype == torch.float32 and x.is_contiguous():
        core().divide(address(x), by, x.numel(), torch.get_num_threads())
        return x
    return x.div_(by)


def _ours(*tensors: Tensor) -> bool:
    """Whether our kernels may compute this: on the CPU, and no gradient is wanted."""
    return not torch.compiler.is_compiling() and all(
        type(t) in _PLAIN
        and t.device.type == "cpu"
        and t.dtype in DTYPES
        and not t.is_neg()
        and not (t.requires_grad and torch.is_grad_enabled())
        for t in tensors
    )
