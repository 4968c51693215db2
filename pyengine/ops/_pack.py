"""Weights in the order in which the CPU kernels read them.

A panel is 16 output channels side by side, whatever the instruction set (csrc/core/gemm): one order
serves matrix products, direct convolution and Winograd.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._check import wrong
from ._core import DTYPES, address, core

PANEL = 16
_MOVED = {*DTYPES, torch.int8}


def pack_weight(weight: Tensor) -> Tensor:
    """[Cout, ...] -> [ceil(Cout / 16), ..., 16], contiguous, dtype kept; missing channels are zero.

    weight: [Cout, C] of a linear layer or [Cout, KH, KW, C] of a convolution.
    """
    if _moved_by_core(weight):
        shape = weight.shape
        return _packed(weight, (*shape[1:], PANEL), math.prod(shape[1:]), 1)
    missing = -weight.shape[0] % PANEL
    if missing:
        weight = F.pad(weight, (0, 0) * (weight.dim() - 1) + (0, missing))
    return weight.unflatten(0, (-1, PANEL)).movedim(1, -1).contiguous()


def pack_filters(weight: Tensor) -> Tensor:
    """pack_weight of a convolution's weight as checkpoints have it, [Cout, C, KH, KW].

    Returns [ceil(Cout / 16), KH, KW, C, 16].
    """
    if not _moved_by_core(weight):
        return pack_weight(weight.permute(0, 2, 3, 1))
    _, channels, height, width = weight.shape
    return _packed(weight, (height, width, channels, PANEL), channels, height * width)


def quantize_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A linear layer's weight in 8 bits: (int8 in pack_weight's panels, float32 scales [Cout]).

    weight: [Cout, C] of any floating-point dtype. Each output channel has one scale, its largest
    magnitude / 127, and the numbers are weight / scale, in float32 and rounded to nearest, ties to
    even: -127 to 127, so that number * scale is within scale / 2 of the weight but for rounding. A
    channel of zeros has the scale 0.
    Raises RequestError where the weight is no matrix or not finite.
    """
    if weight.dim() != 2 or not weight.dtype.is_floating_point:
        raise wrong(
            "quantize_weight", "weight", "a floating-point matrix [Cout, C]",
            f"{weight.dtype} {list(weight.shape)}",
        )  # fmt: skip
    weight = weight.detach().float()
    most = weight.abs().amax(1) if weight.shape[1] else weight.new_zeros(weight.shape[0])
    if not most.isfinite().all():
        raise wrong("quantize_weight", "weight", "finite numbers in float32", "NaN or infinity")
    scale = most / 127
    # A quotient of subnormal numbers, or of zeros, may lie anywhere.
    numbers = (weight / scale[:, None]).nan_to_num_(0).round_().clamp_(-127, 127)
    return pack_weight(numbers.to(torch.int8)), scale


def _moved_by_core(weight: Tensor) -> bool:
    """Whether our C++ packs it: on two threads 5 to 18 GB/s, where torch's copy makes 1 to 2.5."""
    plain = weight.device.type == "cpu" and weight.dtype in _MOVED and not weight.requires_grad
    return plain and weight.is_contiguous() and weight.numel() > 0


def _packed(weight: Tensor, shape: tuple[int, ...], channels: int, taps: int) -> Tensor:
    count = weight.shape[0]
    packed = torch.empty((-(-count // PANEL), *shape), dtype=weight.dtype)
    core().pack_weight(
        address(weight), address(packed), count, channels, taps, weight.element_size(),
        torch.get_num_threads(),
    )  # fmt: skip
    return packed


def unpack_weight(packed: Tensor, channels: int | None = None) -> Tensor:
    """What pack_weight was given; channels: Cout, where it is not a multiple of 16."""
    weight = packed.movedim(-1, 1).flatten(0, 1)
    return weight if channels is None else weight[:channels]
