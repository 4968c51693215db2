"""Specification of conv2d with its prologue and epilogue."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .._pack import quantize_inputs, unpack_filters, unpack_weight
from ._activations import gelu, relu
from ._activations import silu as silu_of
from .linear import dequantised, rounded

_ACTIVATIONS = {"none": None, "silu": silu_of, "gelu": gelu, "relu": relu}


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

    Prologue: x and x2 side by side in C; x * scale + shift per picture and channel ([N, C + C2],
    group_norm_scale_shift's result); input_activation ("none", "silu", "gelu", "relu"; silu: short
    for "silu"); nearest-neighbour 2x enlargement if upsample.
    weight: [Cout, KH, KW, C + C2], or packed by pack_weight; bias: [Cout]; padding: zeros (top,
    bottom, left, right).  Weights of a wider dtype than x's are used as they are.
    Epilogue: + bias, + channel_add [N, Cout] (the time embedding), PReLU by slopes [Cout] (He et
    al. 2015, arXiv:1502.01852), + residual [N, H', W', Cout].
    weight_scale: [Cout] beside quantize_filters' weight: each pixel that the convolution reads is
    rounded by quantize_inputs, a tap's products with the weight are added up exactly, then in the
    taps' order (sum * the pixel's scale), each step rounded; the whole times the weight's scale.
    transposed: torch.nn.ConvTranspose2d with a 4x4 kernel, stride 2 and padding 1.
    Returns [N, H', W', Cout] in x's dtype.
    """
    if x2 is not None:
        x = torch.cat([x, x2], dim=-1)
    dtype = x.dtype
    if scale is not None and shift is not None:
        x = x.to(scale.dtype) * scale[:, None, None] + shift[:, None, None]
    activation = _ACTIVATIONS["silu" if silu else input_activation]
    if activation is not None:
        x = activation(x)
    if weight_scale is not None and x.requires_grad:
        # As linear's: the gradient is that of x itself, products are float32's.
        numbers = unpack_filters(weight, len(weight_scale), x.shape[-1])
        filters = dequantised(numbers.flatten(1), weight_scale, dtype)
        weight, x = filters.view(numbers.shape), rounded(x, dtype, torch.int8)
    elif weight_scale is not None:
        y = _int8_sums(x, weight, weight_scale, stride, padding, upsample)
        y = y if bias is None else y + bias
        return _finished(y, channel_add, slopes, residual, dtype)
    if weight.dim() == 5:
        if out_channels is None and bias is not None:
            out_channels = bias.shape[0]
        weight = unpack_weight(weight, out_channels)
    wide = torch.promote_types(dtype, weight.dtype)
    weight, bias = weight.to(wide), None if bias is None else bias.to(wide)
    x = x.to(dtype).to(wide).permute(0, 3, 1, 2)
    if upsample:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    top, bottom, left, right = padding
    if transposed:
        y = F.conv_transpose2d(x, weight.permute(3, 0, 1, 2), bias, stride=stride, padding=top)
    elif top == bottom and left == right:
        y = F.conv2d(x, weight.permute(0, 3, 1, 2), bias, stride=stride, padding=(top, left))
    else:
        x = F.pad(x, (left, right, top, bottom))
        y = F.conv2d(x, weight.permute(0, 3, 1, 2), bias, stride=stride)
    return _finished(y.permute(0, 2, 3, 1), channel_add, slopes, residual, dtype)


def _int8_sums(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    stride: int,
    padding: tuple[int, int, int, int],
    upsample: bool,
) -> Tensor:
    """x: what the prologue gives, [N, H, W, C], before it is enlarged."""
    filters = unpack_filters(weight, len(weight_scale), x.shape[-1]).double()
    numbers, scale = quantize_inputs(x)
    wide = torch.promote_types(x.dtype, weight_scale.dtype)
    top, bottom, left, right = padding
    if upsample:
        numbers, scale = (
            t.repeat_interleave(2, 1).repeat_interleave(2, 2) for t in (numbers, scale)
        )
    numbers = F.pad(numbers.double(), (0, 0, left, right, top, bottom))
    scale = F.pad(scale.to(wide), (left, right, top, bottom))
    height = (numbers.shape[1] - weight.shape[1]) // stride + 1
    width = (numbers.shape[2] - weight.shape[2]) // stride + 1
    total = None
    for tap in range(weight.shape[1] * weight.shape[2]):
        row, column = divmod(tap, weight.shape[2])
        seen = (
            slice(None),
            slice(row, row + (height - 1) * stride + 1, stride),
            slice(column, column + (width - 1) * stride + 1, stride),
        )
        sums = F.linear(numbers[seen], filters[:, row, column]).to(wide) * scale[seen][..., None]
        total = sums if total is None else total + sums
    assert total is not None
    return total * weight_scale.to(wide)


def _finished(
    y: Tensor,
    channel_add: Tensor | None,
    slopes: Tensor | None,
    residual: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    if channel_add is not None:
        y = y + channel_add[:, None, None, :]
    if slopes is not None:
        y = torch.where(y > 0, y, y * slopes)
    if residual is not None:
        y = y + residual
    return y.to(dtype).contiguous()
