"""Specification of conv2d with its prologue and epilogue."""

import torch
import torch.nn.functional as F
from torch import Tensor


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
) -> Tensor:
    """Convolution of [N, H, W, C] pictures, with what surrounds it in a residual block.

    Prologue: x and x2 side by side in C; x * scale + shift per picture and channel ([N, C + C2],
    group_norm_scale_shift's result); SiLU when silu; nearest-neighbour 2x enlargement if upsample.
    weight: [Cout, KH, KW, C + C2].  bias: [Cout].  padding: zeros (top, bottom, left, right).
    Epilogue: + bias, + channel_add [N, Cout] (the time embedding), + residual [N, H', W', Cout].
    Returns [N, H', W', Cout] in x's dtype.
    """
    if x2 is not None:
        x = torch.cat([x, x2], dim=-1)
    dtype = x.dtype
    if scale is not None:
        x = x.to(scale.dtype) * scale[:, None, None] + shift[:, None, None]
    if silu:
        x = x * torch.sigmoid(x)
    x = x.to(dtype).permute(0, 3, 1, 2)
    if upsample:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
    top, bottom, left, right = padding
    if top == bottom and left == right:
        y = F.conv2d(x, weight.permute(0, 3, 1, 2), bias, stride=stride, padding=(top, left))
    else:
        x = F.pad(x, (left, right, top, bottom))
        y = F.conv2d(x, weight.permute(0, 3, 1, 2), bias, stride=stride)
    y = y.permute(0, 2, 3, 1)
    if channel_add is not None:
        y = y + channel_add[:, None, None, :]
    if residual is not None:
        y = y + residual
    return y.contiguous()
