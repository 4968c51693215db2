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
#: The largest number of what weights are quantised to.
_LARGEST = {torch.int8: 127, torch.float8_e4m3fn: 448}
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


def quantize_weight(weight: Tensor, dtype: torch.dtype = torch.int8) -> tuple[Tensor, Tensor]:
    """A linear layer's weight in 8 bits: (numbers, float32 scales [Cout]).

    weight: [Cout, C] of any floating-point dtype.  dtype: int8, or float8_e4m3fn (Micikevicius et
    al. 2022, arXiv:2209.05433). Each output channel has one scale, its largest magnitude / 127 or
    / 448, and the numbers are weight / scale, in float32, rounded to nearest, ties to even: whole
    numbers from -127 to 127, so that number * scale is within scale / 2 of the weight but for
    rounding, or numbers of 4 significant bits, from 2^-6 on within a 16th of the weight. A channel
    of zeros has the scale 0.
    Returns the numbers in pack_weight's panels on CPUs, as [Cout, C] elsewhere.
    Raises RequestError where the weight is no matrix or not finite, and for other dtypes.
    """
    if dtype not in _LARGEST:
        raise wrong("quantize_weight", "dtype", "torch.int8 or torch.float8_e4m3fn", dtype)
    if weight.dim() != 2 or not weight.dtype.is_floating_point:
        raise wrong(
            "quantize_weight", "weight", "a floating-point matrix [Cout, C]",
            f"{weight.dtype} {list(weight.shape)}",
        )  # fmt: skip
    weight = weight.detach().float()
    most = weight.abs().amax(1) if weight.shape[1] else weight.new_zeros(weight.shape[0])
    if not most.isfinite().all():
        raise wrong("quantize_weight", "weight", "finite numbers in float32", "NaN or infinity")
    largest = _LARGEST[dtype]
    scale = most / largest
    # A quotient of subnormal numbers, or of zeros, may lie anywhere.
    numbers = (weight / scale[:, None]).nan_to_num_(0).clamp_(-largest, largest)
    numbers = (numbers.round_() if dtype == torch.int8 else numbers).to(dtype)
    if weight.device.type == "cpu":
        numbers = pack_weight(numbers.view(torch.int8)).view(dtype)
    return numbers, scale


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
    if packed.dtype == torch.float8_e4m3fn:
        return unpack_weight(packed.view(torch.int8), channels).view(packed.dtype)
    weight = packed.movedim(-1, 1).flatten(0, 1)
    return weight if channels is None else weight[:channels]
