"""conv2d with its prologue and epilogue: our C++ on CPUs, torch's convolution elsewhere."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _backend, _check, _int8, _memory, reference
from ._check import wrong
from ._core import DTYPES, WEIGHT_DTYPES, address, core, float32, multiplies_tiles
from ._op import Op
from ._pack import (
    PAIRS,
    PANEL,
    channels_of,
    check_told,
    is_paired,
    pack_weight,
    unpack_weight,
    unpaired,
)
from .group_norm_silu import apply_scale_shift
from .reference._activations import gelu

#: In the order of the C++ enumeration.
INPUT_ACTIVATIONS = ("none", "silu", "gelu", "relu")


def _check_arguments(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: Sequence[int] = (0, 0, 0, 0),
    x2: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
    channel_add: Tensor | None = None,
    residual: Tensor | None = None,
    upsample: bool = False,
    out_channels: int | None = None,
    input_activation: str = "none",
    slopes: Tensor | None = None,
    transposed: bool = False,
    weight_scale: Tensor | None = None,
) -> None:
    op = "conv2d"
    if x.dim() != 4:
        raise wrong(op, "x", "4 dimensions [N, H, W, C]", list(x.shape))
    channels = x.shape[3]
    if x2 is not None:
        _check.shape(x2, (*x.shape[:3], None), op, "x2")
        _check.like(x2, x, op, "x2")
        channels += x2.shape[3]
    if channels < 1:
        raise wrong(op, "x", "at least one channel", list(x.shape))
    if weight_scale is None:
        _check_weight(op, x, weight, channels, bias, out_channels)
    else:
        out_channels = len(weight_scale)
        _int8.check(x, weight, weight_scale, channels, transposed=transposed, slopes=slopes)
    if stride < 1:
        raise wrong(op, "stride", "at least 1", stride)
    if len(padding) != 4 or min(padding) < 0:
        raise wrong(op, "padding", "4 sizes (top, bottom, left, right), none negative", padding)
    if transposed:
        _check_transposed(op, weight, stride, padding, upsample)
    if (scale is None) != (shift is None):
        raise wrong(op, "scale", "both scale and shift or neither", "one")
    if input_activation not in INPUT_ACTIVATIONS:
        raise wrong(
            op, "input_activation", f"one of {', '.join(INPUT_ACTIVATIONS)}", input_activation
        )
    if silu and input_activation not in ("none", "silu"):
        raise wrong(op, "input_activation", "silu or none where silu is True", input_activation)
    shape = _output_shape(x, weight, bias, stride, padding, upsample, out_channels, transposed)
    if min(x.shape[1:3]) < 1 or min(shape[1:3]) <= 0:
        raise wrong(op, "x", "a padded picture no smaller than weight", list(x.shape))
    for name, tensor, wanted, same_dtype in (
        ("bias", bias, shape[3:], False),
        ("scale", scale, (x.shape[0], channels), False),
        ("shift", shift, (x.shape[0], channels), False),
        ("channel_add", channel_add, (shape[0], shape[3]), True),
        ("slopes", slopes, shape[3:], False),
        ("residual", residual, shape, True),
    ):
        if tensor is not None:
            _check.shape(tensor, wanted, op, name)
            _check.like(tensor, x, op, name, dtype=same_dtype)


def _check_transposed(
    op: str, weight: Tensor, stride: int, padding: Sequence[int], upsample: bool
) -> None:
    if tuple(weight.shape[1:3]) != (4, 4) or stride != 2 or tuple(padding) != (1, 1, 1, 1):
        given = f"{list(weight.shape[1:3])}, {stride} and {list(padding)}"
        raise wrong(op, "transposed", "a kernel of 4x4, stride 2 and padding 1, 1, 1, 1", given)
    if upsample:
        raise wrong(op, "upsample", "False where transposed", upsample)


def _check_weight(
    op: str,
    x: Tensor,
    weight: Tensor,
    channels: int,
    bias: Tensor | None,
    out_channels: int | None,
) -> None:
    packed = weight.dim() == 5
    panels = (channels // 2, 2 * PANEL) if is_paired(weight) else (channels, PANEL)
    _check.shape(weight, (None,) * 3 + (panels if packed else (channels,)), op, "weight")
    _check.like(weight, x, op, "weight", dtype=False)
    if weight.dtype not in DTYPES and weight.dtype != x.dtype:
        raise wrong(op, "weight", "float32, bfloat16, float16 or x's dtype", weight.dtype)
    if min(weight.shape[1:3]) < 1:
        raise wrong(op, "weight", "a kernel of at least 1x1", list(weight.shape))
    if packed and bias is None and out_channels is None:
        check_told(op, "weight", weight, "bias or out_channels")
    most = weight.shape[0] * (PANEL if packed else 1)
    least = most - PANEL + 1 if packed else most
    count = _channels_out(weight, bias, out_channels)
    if not least <= count <= most:
        name = "bias" if out_channels is None else "out_channels"
        raise wrong(op, name, f"{least} to {most} channels, as weight has", count)


def _channels_out(weight: Tensor, bias: Tensor | None, out_channels: int | None) -> int:
    """Cout: a packed weight alone tells it only up to a multiple of 16."""
    if out_channels is not None:
        return out_channels
    if weight.dim() == 4:
        return weight.shape[0]
    return weight.shape[0] * PANEL if bias is None else bias.shape[0]


def _output_shape(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: Sequence[int],
    upsample: bool,
    out_channels: int | None,
    transposed: bool = False,
) -> tuple[int, int, int, int]:
    if transposed:  # of the one kind that there is
        height, width = (2 * side for side in x.shape[1:3])
        return x.shape[0], height, width, _channels_out(weight, bias, out_channels)
    height, width = (size * 2 if upsample else size for size in x.shape[1:3])
    top, bottom, left, right = padding
    return (
        x.shape[0],
        (height + top + bottom - weight.shape[1]) // stride + 1,
        (width + left + right - weight.shape[2]) // stride + 1,
        _channels_out(weight, bias, out_channels),
    )


def _empty(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: Sequence[int] = (0, 0, 0, 0),
    upsample: bool = False,
    out_channels: int | None = None,
    transposed: bool = False,
    weight_scale: Tensor | None = None,
    **_: Any,
) -> Tensor:
    out_channels = out_channels if weight_scale is None else len(weight_scale)
    return x.new_empty(
        _output_shape(x, weight, bias, stride, padding, upsample, out_channels, transposed)
    )


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _cpu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: Sequence[int] = (0, 0, 0, 0),
    x2: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
    channel_add: Tensor | None = None,
    residual: Tensor | None = None,
    upsample: bool = False,
    out_channels: int | None = None,
    input_activation: str = "none",
    slopes: Tensor | None = None,
    transposed: bool = False,
    weight_scale: Tensor | None = None,
    algorithm: str = "",
) -> Tensor:
    """algorithm: "" for the table's choice (csrc/core/conv/algorithm.cc), or one by its name; of no
    meaning beside weight_scale.
    """
    out_channels = out_channels if weight_scale is None else len(weight_scale)
    shape = _output_shape(x, weight, bias, stride, padding, upsample, out_channels, transposed)
    stride = 1 if transposed else stride  # between the windows of each parity
    y = _memory.empty(shape, x.dtype)
    if weight.dim() == 4:
        weight = pack_weight(weight)
    x, weight = x.contiguous(), weight.contiguous()
    x2, channel_add, residual = (_contiguous(t) for t in (x2, channel_add, residual))
    bias, scale, shift, slopes = (
        None if t is None else float32(t) for t in (bias, scale, shift, slopes)
    )
    code = WEIGHT_DTYPES[weight.dtype]
    if is_paired(weight):
        if x.dtype is torch.bfloat16 and multiplies_tiles() and algorithm in ("", "direct_bf16"):
            code = PAIRS
        else:
            weight = unpaired(weight, _channels_out(weight, bias, out_channels))
    args = core().Conv2dArgs(
        x=address(x),
        x2=address(x2),
        weight=address(weight),
        bias=address(bias),
        scale=address(scale),
        shift=address(shift),
        channel_add=address(channel_add),
        slopes=address(slopes),
        residual=address(residual),
        y=address(y),
        pictures=x.shape[0],
        height=x.shape[1],
        width=x.shape[2],
        channels=x.shape[3],
        channels2=0 if x2 is None else x2.shape[3],
        height_out=y.shape[1],
        width_out=y.shape[2],
        channels_out=y.shape[3],
        kernel_height=weight.shape[1],
        kernel_width=weight.shape[2],
        stride=stride,
        top=padding[0],
        left=padding[2],
        activation=INPUT_ACTIVATIONS.index("silu" if silu else input_activation),
        upsample=upsample,
        transposed=transposed,
        dtype=DTYPES[x.dtype],
        weight_dtype=code,
    )
    if weight_scale is None:
        core().conv2d(args, torch.get_num_threads(), algorithm)
    else:
        factors = float32(weight_scale)
        core().conv2d_int8(args, address(factors), torch.get_num_threads())
    return y


def algorithm_of(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: Sequence[int] = (0, 0, 0, 0),
    x2: Tensor | None = None,
    upsample: bool = False,
    out_channels: int | None = None,
    transposed: bool = False,
    **_: Any,
) -> str:
    """The algorithm that our C++ takes for a call: direct, winograd4 (F(4x4, 3x3)), winograd2
    or direct_bf16.

    A function of one picture's shape, the dtypes and the instruction set in use.
    """
    shape = _output_shape(x, weight, bias, stride, padding, upsample, out_channels, transposed)
    channels = weight.shape[3] * (2 if weight.dim() == 5 and is_paired(weight) else 1)
    layer = core().ConvShape(
        height_out=shape[1],
        width_out=shape[2],
        channels=channels,
        channels_out=shape[3],
        kernel_height=weight.shape[1],
        kernel_width=weight.shape[2],
        stride=stride,
        upsample=upsample,
        weight_dtype=DTYPES[weight.dtype],
        dtype=DTYPES[x.dtype],
    )
    name: str = core().conv2d_algorithm(layer)
    return name


def _prologue(
    x: Tensor,
    x2: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    activation: str,
    apply: Callable[..., Tensor] | None,
) -> Tensor:
    """The input of the convolution: one tensor, in one pass where our kernel runs."""
    if scale is not None and shift is not None:
        simple = activation in ("none", "silu")
        if simple and x.device.type == "cpu":
            return apply_scale_shift(x, scale, shift, activation == "silu", x2)
        if apply is not None and x.device.type != "cpu":
            return apply(x, scale, shift, activation == "silu" if simple else activation, x2)
        if x2 is not None:
            x = torch.cat([x, x2], dim=-1)
        y = torch.addcmul(shift[:, None, None], x.to(scale.dtype), scale[:, None, None])
        return _activated(y, activation).to(x.dtype)
    if x2 is not None:
        x = torch.cat([x, x2], dim=-1)
    return _activated(x, activation)


def _activated(x: Tensor, activation: str) -> Tensor:
    if activation == "gelu":
        # torch's own is infinite or NaN at the ends of the range where oneDNN computes it.
        return gelu(x)
    return x if activation == "none" else {"silu": F.silu, "relu": F.relu}[activation](x)


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: Sequence[int],
    transposed: bool = False,
) -> Tensor:
    """F.conv2d or F.conv_transpose2d, whatever the caller has set in torch.backends.cudnn: no
    algorithm is chosen by timing, all are deterministic, and float32 is not multiplied in TF32,
    which is torch's default.
    """
    benchmark, deterministic, cudnn, tf32 = False, True, True, False
    y: Tensor = torch.ops.aten._convolution(
        x,
        weight,
        bias,
        (stride, stride),
        padding,
        (1, 1),
        transposed,
        (0, 0),
        1,
        benchmark,
        deterministic,
        cudnn,
        tf32,
    )
    return y


def _torch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: Sequence[int] = (0, 0, 0, 0),
    x2: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
    channel_add: Tensor | None = None,
    residual: Tensor | None = None,
    upsample: bool = False,
    out_channels: int | None = None,
    input_activation: str = "none",
    slopes: Tensor | None = None,
    transposed: bool = False,
    weight_scale: Tensor | None = None,
    apply: Callable[..., Tensor] | None = None,
    add: Callable[..., Tensor] | None = None,
) -> Tensor:
    """apply, add: apply_scale_shift and add_epilogue of pyengine.kernels, or None for torch's."""
    if weight_scale is not None:  # made for CPUs
        top, bottom, left, right = padding
        return reference.conv2d(
            x,
            weight,
            bias,
            stride=stride,
            padding=(top, bottom, left, right),
            x2=x2,
            scale=scale,
            shift=shift,
            silu=silu,
            channel_add=channel_add,
            residual=residual,
            upsample=upsample,
            input_activation=input_activation,
            weight_scale=weight_scale,
        )
    if weight.dim() == 5:
        weight = unpack_weight(weight, _channels_out(weight, bias, out_channels))
    weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
    # Permuted views: to torch an NHWC picture is an NCHW one in channels_last order.
    activation = "silu" if silu else input_activation
    x = _prologue(x, x2, scale, shift, activation, apply).permute(0, 3, 1, 2)
    if upsample:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    top, bottom, left, right = padding
    if (top, left) == (bottom, right):
        padding = (top, left)
    else:
        x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
    weight = weight.permute(3, 0, 1, 2) if transposed else weight.permute(0, 3, 1, 2)
    if add is not None:
        y = _convolved(x, weight, None, stride, padding, transposed).permute(0, 2, 3, 1)
        return add(y, bias, channel_add, residual, slopes)
    y = _convolved(x, weight, bias, stride, padding, transposed).permute(0, 2, 3, 1)
    if channel_add is not None:
        y.add_(channel_add[:, None, None, :])
    if slopes is not None:
        y = torch.where(y > 0, y, y * slopes.to(y.dtype))
    if residual is not None:
        y.add_(residual)
    return y.contiguous()


def _cudnn() -> Callable[..., Tensor]:
    """torch's convolution, which adds a bias in a pass of its own, between kernels of ours."""
    return partial(
        _torch,
        apply=_backend.kernel("conv2d", "apply_scale_shift", "group_norm_silu"),
        add=_backend.kernel("conv2d", "add_epilogue", "conv2d"),
    )


_CUDA = _backend.Backend(
    "torch",
    "cuDNN's convolution; scale, shift and SiLU before it, and bias, time embedding and residual "
    "after it, in one pass of our Triton each",
    _cudnn,
    _backend.FLOATS,
    batch_invariant=False,
)
_REFERENCE = _backend.reference(reference.conv2d)
_ROWS = (_backend.torch_backed(_torch), _REFERENCE)

OP = Op(
    reference.conv2d,
    check=_check_arguments,
    fake=_empty,
    table={
        "cpu": (_backend.cpu(_cpu), *_ROWS),
        "cuda": (_CUDA, _REFERENCE),
        _backend.ANY: _ROWS,
    },
)


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    x2: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
    channel_add: Tensor | None = None,
    residual: Tensor | None = None,
    upsample: bool = False,
    out_channels: int | None = None,
    input_activation: str = "none",
    slopes: Tensor | None = None,
    transposed: bool = False,
    weight_scale: Tensor | None = None,
) -> Tensor:
    """Convolution of [N, H, W, C] pictures, with what surrounds it in a residual block.

    Args:
        x: [N, H, W, C] float32 | bfloat16 | float16 | float64.
        weight: [Cout, KH, KW, C + C2], or packed by pack_weight: [ceil(Cout / 16), KH, KW, C + C2,
            16], whose own result remembers Cout; of its copies and views bias or out_channels tells
            it.
        bias: [Cout] of any floating-point dtype, or None.
        stride: at least 1, along both sides.
        padding: zeros (top, bottom, left, right).
        x2: [N, H, W, C2] in x's dtype, side by side with it in C, or None.
        scale, shift: the prologue x * scale + shift, [N, C + C2] of any floating-point dtype
            (group_norm_scale_shift's result); both or neither.
        silu: the same as input_activation="silu".
        channel_add: [N, Cout] in x's dtype, added after the bias (the time embedding), or None.
        residual: [N, H', W', Cout] in x's dtype, added at last, or None.
        upsample: whether what the prologue gives is enlarged twice, each pixel drawn four times.
        out_channels: Cout, where neither a packed weight nor bias tells it.
        input_activation: after it: "none", "silu", "gelu" (erf) or "relu".
        slopes: [Cout] of any floating-point dtype, of a PReLU then: v where v > 0, v * slopes
            elsewhere (all equal: leaky ReLU; 0: ReLU); or None.
        transposed: the convolution whose gradient is that of one of stride 2: [N, 2 H, 2 W, Cout];
            of a 4x4 kernel, stride 2 and padding 1 alone, and the weight's taps as
            torch.nn.ConvTranspose2d's.
        weight_scale: [Cout] of any floating-point dtype, with quantize_filters' weight: each pixel
            that the prologue gives is rounded to int8 under a scale of its own, and products are
            added up in int32 (docs/numerics.md). Neither transposed nor with slopes; C at most
            2^17.

    Returns:
        [N, H', W', Cout] in x's dtype.

    Raises:
        RequestError: for other shapes and dtypes.
    """
    if out_channels is None:
        out_channels = channels_of(weight)
    return OP(
        x,
        weight,
        bias,
        stride=stride,
        padding=padding,
        x2=x2,
        scale=scale,
        shift=shift,
        silu=silu,
        channel_add=channel_add,
        residual=residual,
        upsample=upsample,
        out_channels=out_channels,
        input_activation=input_activation,
        slopes=slopes,
        transposed=transposed,
        weight_scale=weight_scale,
    )
