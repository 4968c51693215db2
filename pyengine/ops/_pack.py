"""Weights in the order in which the CPU kernels read them.

A panel is 16 output channels side by side, whatever the instruction set (csrc/core/gemm): one order
serves matrix products, direct convolution and Winograd.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _check
from ._check import visible, wrong
from ._core import DTYPES, address, core

PANEL = 16
#: The largest number of what weights are quantised to.
_LARGEST = {torch.int8: 127, torch.float8_e4m3fn: 448}
_MOVED = {*DTYPES, torch.int8}


def pack_weight(weight: Tensor) -> Tensor:
    """[Cout, ...] -> [ceil(Cout / 16), ..., 16], contiguous, dtype kept; missing channels are zero.

    weight: [Cout, C] of a linear layer or [Cout, KH, KW, C] of a convolution.
    The returned tensor remembers Cout (see channels_of); its copies and views do not.
    """
    _check.tensor("pack_weight", "weight", weight)
    if weight.dim() < 2:
        raise wrong("pack_weight", "weight", "[Cout, C] or [Cout, KH, KW, C]", list(weight.shape))
    count = weight.shape[0]
    if _moved_by_core(weight):
        shape = weight.shape
        return _packed(weight, (*shape[1:], PANEL), math.prod(shape[1:]), 1)
    missing = -count % PANEL
    if missing:
        weight = F.pad(weight, (0, 0) * (weight.dim() - 1) + (0, missing))
    packed = weight.unflatten(0, (-1, PANEL)).movedim(1, -1).contiguous()
    return _remember(packed, count)


def pack_filters(weight: Tensor) -> Tensor:
    """pack_weight of a convolution's weight as checkpoints have it, [Cout, C, KH, KW].

    Returns [ceil(Cout / 16), KH, KW, C, 16].
    """
    _check.tensor("pack_filters", "weight", weight)
    if weight.dim() != 4:
        raise wrong("pack_filters", "weight", "shape [Cout, C, KH, KW]", list(weight.shape))
    if not _moved_by_core(weight):
        return pack_weight(weight.permute(0, 2, 3, 1))
    _, channels, height, width = weight.shape
    return _packed(weight, (height, width, channels, PANEL), channels, height * width)


def _for_cpu(weight: Tensor) -> bool:
    """Whether a weight is packed in panels; the meta device stands for the CPU."""
    return weight.device.type in ("cpu", "meta") and weight.dtype != torch.float64


def arranged(weight: Tensor) -> Tensor:
    """A matrix [Cout, C] as linear reads it best: in panels on CPUs, as it is elsewhere."""
    return pack_weight(weight) if _for_cpu(weight) else weight.contiguous()


def arranged_filters(weight: Tensor) -> Tensor:
    """[Cout, C, KH, KW] as conv2d reads it best: in panels on CPUs, [Cout, KH, KW, C] elsewhere."""
    return pack_filters(weight) if _for_cpu(weight) else ohwi(weight)


def ohwi(weight: Tensor) -> Tensor:
    """[Cout, C, KH, KW] -> [Cout, KH, KW, C]."""
    return weight.permute(0, 2, 3, 1).contiguous()


def quantize_rows(rows: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """[..., C] in 8 bits, a scale for each row: (numbers [..., C], float32 scales [...]).

    dtype: int8 or float8_e4m3fn. A scale is the row's largest magnitude / 127 or / 448, the numbers
    are row / scale, in float32, rounded to nearest, ties to even. A row of zeros has the scale 0;
    one that holds NaN or infinity has such a scale, and numbers that mean nothing.
    """
    rows = rows.float()
    most = rows.abs().amax(-1) if rows.shape[-1] else rows.new_zeros(rows.shape[:-1])
    largest = _LARGEST[dtype]
    scale = most / largest
    # A quotient of subnormal numbers, or of zeros, may lie anywhere.
    numbers = (rows / scale[..., None]).nan_to_num_(0).clamp_(-largest, largest)
    return (numbers.round_() if dtype == torch.int8 else numbers).to(dtype), scale


def quantize_weight(weight: Tensor, dtype: torch.dtype = torch.int8) -> tuple[Tensor, Tensor]:
    """A linear layer's weight in 8 bits: (numbers, float32 scales [Cout]).

    weight: [Cout, C] of any floating-point dtype.  dtype: int8, or float8_e4m3fn (Micikevicius et
    al. 2022, arXiv:2209.05433). Each output channel is rounded as a row of quantize_rows: whole
    numbers from -127 to 127, so that number * scale is within scale / 2 of the weight but for
    rounding, or numbers of 4 significant bits, from 2^-6 on within a 16th of the weight. A channel
    of zeros has the scale 0.
    Returns the numbers in pack_weight's panels on CPUs, as [Cout, C] elsewhere.
    Raises RequestError where the weight is no matrix or not finite, and for other dtypes.
    """
    _check.tensor("quantize_weight", "weight", weight)
    if dtype not in _LARGEST:
        raise wrong("quantize_weight", "dtype", "torch.int8 or torch.float8_e4m3fn", dtype)
    if weight.dim() != 2 or not weight.dtype.is_floating_point:
        raise wrong(
            "quantize_weight", "weight", "a floating-point matrix [Cout, C]",
            f"{weight.dtype} {list(weight.shape)}",
        )  # fmt: skip
    numbers, scale = quantize_rows(weight.detach(), dtype)
    if not scale.isfinite().all():
        raise wrong("quantize_weight", "weight", "finite numbers in float32", "NaN or infinity")
    if weight.device.type == "cpu":
        numbers = _remember(pack_weight(numbers.view(torch.int8)).view(dtype), len(scale))
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
    return _remember(packed, count)


def _remember(packed: Tensor, channels: int) -> Tensor:
    packed._pyengine_channels = channels  # type: ignore[attr-defined]
    return packed


def channels_of(packed: Tensor) -> int | None:
    """Cout of what pack_weight returned; None for other tensors, its copies and views among them.

    The panels' shape tells Cout only up to a multiple of 16: their last may be padded.
    """
    return getattr(packed, "_pyengine_channels", None)


def check_told(op: str, argument: str, packed: Tensor, hint: str) -> None:
    """Refuses panels of unknown Cout whose last channel is zero, since it may be padding.

    hint: the arguments that would have told Cout.
    """
    plain = type(packed) in (Tensor, torch.nn.Parameter) and visible(packed)
    if plain and packed.device.type == "cpu" and packed.shape[0] and not packed[-1, ..., -1].any():
        raise wrong(
            op, argument, f"{hint} beside it, since its last panel seems to be padded",
            f"{list(packed.shape)} alone",
        )  # fmt: skip


def unpack_weight(packed: Tensor, channels: int | None = None) -> Tensor:
    """What pack_weight was given; channels: Cout, where `packed` does not remember it and it is not
    a multiple of 16.
    """
    _check.tensor("unpack_weight", "packed", packed)
    if packed.dim() < 3 or packed.shape[-1] != PANEL:
        raise wrong("unpack_weight", "packed", f"panels [..., {PANEL}]", list(packed.shape))
    channels = channels_of(packed) if channels is None else channels
    if packed.dtype == torch.float8_e4m3fn:
        return unpack_weight(packed.view(torch.int8), channels).view(packed.dtype)
    weight = packed.movedim(-1, 1).flatten(0, 1)
    return weight if channels is None else weight[:channels]
