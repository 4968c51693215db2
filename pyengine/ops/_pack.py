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
from ._core import DTYPES, address, core, multiplies_bfloat16

PANEL = 16
#: What the depth of bfloat16 weights in pairs is a multiple of (csrc/core/gemm/pairs.h), and what
#: such weights are called there.
PAIRS_DEPTH, PAIRS = 32, 4
#: The largest number of what weights are quantised to.
_LARGEST = {torch.int8: 127, torch.float8_e4m3fn: 448}
_MOVED = {*DTYPES, torch.int8, torch.int32}


def pack_weight(weight: Tensor) -> Tensor:
    """[Cout, ...] -> [ceil(Cout / 16), ..., 16], contiguous, dtype kept; missing channels are zero.

    Args:
        weight: [Cout, C] of a linear layer or [Cout, KH, KW, C] of a convolution.

    Returns:
        The packed weight, which remembers Cout (see channels_of); its copies and views do not.
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
    """pack_weight of a convolution's weight as checkpoints have it.

    Args:
        weight: [Cout, C, KH, KW].

    Returns:
        [ceil(Cout / 16), KH, KW, C, 16].
    """
    _check.tensor("pack_filters", "weight", weight)
    if weight.dim() != 4:
        raise wrong("pack_filters", "weight", "shape [Cout, C, KH, KW]", list(weight.shape))
    if not _moved_by_core(weight):
        return pack_weight(weight.permute(0, 2, 3, 1))
    _, channels, height, width = weight.shape
    return _packed(weight, (height, width, channels, PANEL), channels, height * width)


def pair_weight(weight: Tensor) -> Tensor:
    """[Cout, ..., C] in bfloat16 -> [ceil(Cout / 16), ..., C / 2, 32]: panels in which elements 2i
    and 2i + 1 of C of an output channel lie side by side, as instructions for bfloat16 take them.

    C is a multiple of PAIRS_DEPTH. As many bytes as pack_weight's, and as that it remembers Cout.
    """
    packed = pack_weight(weight.contiguous().view(torch.int32))
    return _remember(packed.view(torch.bfloat16), weight.shape[0])


def is_paired(packed: Tensor) -> bool:
    """Whether a packed weight is pair_weight's, by its shape."""
    return packed.dtype is torch.bfloat16 and packed.shape[-1] == 2 * PANEL


def unpaired(packed: Tensor, channels: int) -> Tensor:
    """What pack_weight makes of the weight, for kernels that do not read pairs."""
    return pack_weight(unpack_weight(packed, channels)) if is_paired(packed) else packed


def _may_pair(weight: Tensor, channels: int) -> bool:
    plain = weight.device.type == "cpu" and weight.dtype == torch.bfloat16 and weight.numel() > 0
    return plain and channels % PAIRS_DEPTH == 0


def _for_cpu(weight: Tensor) -> bool:
    """Whether a weight is packed in panels; the meta device stands for the CPU."""
    return weight.device.type in ("cpu", "meta") and weight.dtype != torch.float64


def arranged(weight: Tensor, pairs: bool = False) -> Tensor:
    """A matrix [Cout, C] as linear reads it best: in panels on CPUs, as it is elsewhere.

    pairs: whether activations are bfloat16; then in pairs, where the CPU multiplies them.
    """
    if pairs and _may_pair(weight, weight.shape[-1]) and multiplies_bfloat16():
        return pair_weight(weight)
    return pack_weight(weight) if _for_cpu(weight) else weight.contiguous()


def arranged_filters(weight: Tensor, pairs: bool = False) -> Tensor:
    """[Cout, C, KH, KW] as conv2d reads it best: in panels on CPUs, [Cout, KH, KW, C] elsewhere.

    pairs: as arranged's.
    """
    count, channels, *kernel = weight.shape
    if pairs and _may_pair(weight, channels):
        bfloat16 = DTYPES[torch.bfloat16]
        shape = core().ConvShape(
            height_out=1,
            width_out=1,
            channels=channels,
            channels_out=count,
            kernel_height=kernel[0],
            kernel_width=kernel[1],
            stride=1,
            weight_dtype=bfloat16,
            dtype=bfloat16,
        )
        if core().conv2d_algorithm(shape) == "direct_bf16":
            return pair_weight(ohwi(weight))
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


def quantize_inputs(rows: Tensor) -> tuple[Tensor, Tensor]:
    """[..., C] as int8 products take them: (numbers [..., C] int8, float32 scales [...]).

    With m the row's largest magnitude, but at least 2^-100: numbers are x * (127 / m), each step
    rounded to float32, then rounded to nearest, ties to even; the scale is m / 127. So a number
    times the scale is within scale / 2 of x, but for float32's rounding. A row that holds NaN or
    infinity has the numbers 0 and the scale NaN.
    """
    rows = rows.float()
    most = rows.abs().amax(-1) if rows.shape[-1] else rows.new_zeros(rows.shape[:-1])
    finite = most.isfinite()
    most = torch.where(finite, most.clamp(min=2.0**-100), torch.nan)
    inverse = torch.full_like(most, 127) / most  # 127 / most would be a reciprocal's multiple
    numbers = (rows * inverse[..., None]).round_()
    return torch.where(finite[..., None], numbers, 0).to(torch.int8), most / 127


def quantize_weight(
    weight: Tensor, dtype: torch.dtype = torch.int8, products: bool = False
) -> tuple[Tensor, Tensor]:
    """A linear layer's weight in 8 bits: (numbers, float32 scales [Cout]).

    Each output channel is rounded as a row of quantize_rows: whole numbers from -127 to 127, so
    that number * scale is within scale / 2 of the weight but for rounding, or numbers of 4
    significant bits, from 2^-6 on within a 16th of the weight. A channel of zeros has the scale 0.

    Args:
        weight: [Cout, C] of any floating-point dtype.
        dtype: int8, or float8_e4m3fn (Micikevicius et al. 2022, arXiv:2209.05433).
        products: whether inputs are rounded too: int8 numbers are then packed by pack_quads.

    Returns:
        The numbers in pack_weight's panels on CPUs, as [Cout, C] elsewhere.

    Raises:
        RequestError: where the weight is no matrix or not finite, and for other dtypes.
    """
    _check.tensor("quantize_weight", "weight", weight)
    if dtype not in _LARGEST:
        raise wrong("quantize_weight", "dtype", "torch.int8 or torch.float8_e4m3fn", dtype)
    if weight.dim() != 2 or not weight.dtype.is_floating_point:
        raise wrong(
            "quantize_weight",
            "weight",
            "a floating-point matrix [Cout, C]",
            f"{weight.dtype} {list(weight.shape)}",
        )
    numbers, scale = quantize_rows(weight.detach(), dtype)
    if not scale.isfinite().all():
        raise wrong("quantize_weight", "weight", "finite numbers in float32", "NaN or infinity")
    if weight.device.type == "cpu" and products and dtype == torch.int8:
        numbers = pack_quads(numbers)
    elif weight.device.type == "cpu":
        numbers = _remember(pack_weight(numbers.view(torch.int8)).view(dtype), len(scale))
    return numbers, scale


#: Elements of C in a step of int8 products: a row of AMX's tiles.
STEP = 64


def pack_quads(weight: Tensor) -> Tensor:
    """int8 [Cout, C] -> [ceil(Cout / 16), S / 4, 16, 4], with S = C rounded up to a multiple of 64.

    Four neighbours in C of an output lie side by side, as instructions that add up four products
    read them; what is missing of C and Cout is zero. The result remembers Cout as pack_weight's.
    """
    count, channels = weight.shape
    if not channels:
        return _remember(weight.new_empty(-(-count // PANEL), 0, PANEL, 4), count)
    padded = F.pad(weight, (0, -channels % STEP, 0, -count % PANEL)).contiguous()
    fours = padded.view(torch.int32).unflatten(0, (-1, PANEL)).transpose(1, 2).contiguous()
    return _remember(fours.view(torch.int8).unflatten(-1, (PANEL, 4)), count)


def unpack_quads(packed: Tensor, count: int | None, channels: int) -> Tensor:
    """What pack_quads was given: [Cout, C] int8."""
    rows = packed.transpose(1, 2).flatten(2).flatten(0, 1)
    return rows[:count, :channels].contiguous()


def quantize_filters(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A convolution's weight for conv2d's int8 products: (numbers, scales).

    Each output channel is rounded as quantize_weight's, over all taps; scales: float32 [Cout].

    Args:
        weight: [Cout, C, KH, KW] of any floating-point dtype.

    Returns:
        The numbers as [ceil(Cout / 16), KH, KW, S / 4, 16, 4], S being C rounded up to a multiple
        of 64: pack_quads, tap by tap.

    Raises:
        RequestError: where the weight is no convolution's or not finite.
    """
    _check.tensor("quantize_filters", "weight", weight)
    if weight.dim() != 4 or not weight.dtype.is_floating_point:
        raise wrong(
            "quantize_filters",
            "weight",
            "floating-point filters [Cout, C, KH, KW]",
            f"{weight.dtype} {list(weight.shape)}",
        )
    channels, height, width = weight.shape[1:]
    numbers, scale = quantize_rows(ohwi(weight.detach()).flatten(1), torch.int8)
    if not scale.isfinite().all():
        raise wrong("quantize_filters", "weight", "finite numbers in float32", "NaN or infinity")
    taps = F.pad(numbers.unflatten(1, (height, width, channels)), (0, -channels % STEP))
    packed = pack_quads(taps.flatten(1))
    return packed.unflatten(1, (height, width, -1)), scale


def unpack_filters(packed: Tensor, count: int, channels: int) -> Tensor:
    """The numbers that quantize_filters packed: int8 [Cout, KH, KW, C]."""
    height, width, fours = packed.shape[1:4]
    rows = unpack_quads(packed.flatten(1, 3), count, height * width * fours * 4)
    return rows.view(-1, height, width, fours * 4)[..., :channels].contiguous()


def plain_weight(weight: Tensor, count: int | None, channels: int) -> Tensor:
    """A linear layer's weight as [Cout, C], whichever way it is packed."""
    if weight.dim() == 4:
        return unpack_quads(weight, count, channels)
    return unpack_weight(weight, count) if weight.dim() == 3 else weight


def _moved_by_core(weight: Tensor) -> bool:
    """Whether our C++ packs it: on two threads 5 to 18 GB/s, where torch's copy makes 1 to 2.5."""
    plain = weight.device.type == "cpu" and weight.dtype in _MOVED and not weight.requires_grad
    return plain and weight.is_contiguous() and weight.numel() > 0


def _packed(weight: Tensor, shape: tuple[int, ...], channels: int, taps: int) -> Tensor:
    count = weight.shape[0]
    packed = torch.empty((-(-count // PANEL), *shape), dtype=weight.dtype)
    args = core().PackWeightArgs(
        weight=address(weight),
        packed=address(packed),
        channels_out=count,
        channels=channels,
        taps=taps,
    )
    core().pack_weight(args, weight.element_size(), torch.get_num_threads())
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
    last = packed.shape[-1] // PANEL  # elements of the last channel
    if (
        plain
        and packed.device.type == "cpu"
        and packed.shape[0]
        and not packed[-1, ..., -last:].any()
    ):
        raise wrong(
            op,
            argument,
            f"{hint} beside it, since its last panel seems to be padded",
            f"{list(packed.shape)} alone",
        )


def unpack_weight(packed: Tensor, channels: int | None = None) -> Tensor:
    """What pack_weight or pair_weight was given.

    Args:
        packed: pack_weight's result, or pair_weight's.
        channels: Cout, where `packed` does not remember it and it is not a multiple of 16.
    """
    _check.tensor("unpack_weight", "packed", packed)
    if packed.dim() >= 3 and is_paired(packed):
        channels = channels_of(packed) if channels is None else channels
        return unpack_weight(packed.view(torch.int32), channels).contiguous().view(packed.dtype)
    if packed.dim() < 3 or packed.shape[-1] != PANEL:
        raise wrong("unpack_weight", "packed", f"panels [..., {PANEL}]", list(packed.shape))
    channels = channels_of(packed) if channels is None else channels
    if packed.dtype == torch.float8_e4m3fn:
        return unpack_weight(packed.view(torch.int8), channels).view(packed.dtype)
    weight = packed.movedim(-1, 1).flatten(0, 1)
    return weight if channels is None else weight[:channels]
