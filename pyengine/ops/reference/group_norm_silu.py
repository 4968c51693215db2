"""Specification of group_norm_silu and group_norm_scale_shift.  Wu & He 2018, arXiv:1803.08494."""

import torch
from torch import Tensor

from ._activations import silu as silu_of


def group_norm_scale_shift(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float = 1e-5,
    x2: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The (scale, shift) with which group_norm(x) = x * scale + shift, per picture and channel.

    x: [N, H, W, C]; x2: [N, H, W, C2] or None, side by side with x in C.
    weight, bias: [C + C2], or None for ones and zeros.
    Returns two [N, C + C2] tensors in float32 (float64 for float64 x).
    """
    if x2 is not None:
        x = torch.cat([x, x2], dim=-1)
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    n, h, w, c = x.shape
    grouped = x.to(acc).reshape(n, h * w, groups, c // groups)
    mean = grouped.mean(dim=(1, 3))
    var = (grouped - mean[:, None, :, None]).square().mean(dim=(1, 3))
    rstd = torch.rsqrt(var + eps)
    scale = rstd.repeat_interleave(c // groups, dim=1)
    if weight is not None:
        scale = scale * weight.to(acc)
    shift = -mean.repeat_interleave(c // groups, dim=1) * scale
    return scale, shift if bias is None else bias.to(acc) + shift


def group_norm_silu(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    groups: int,
    eps: float = 1e-5,
    x2: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """SiLU(group_norm(x)) (or group_norm alone with silu=False); shapes as above, dtype of x."""
    scale, shift = group_norm_scale_shift(x, weight, bias, groups, eps, x2)
    if x2 is not None:
        x = torch.cat([x, x2], dim=-1)
    y = x.to(scale.dtype) * scale[:, None, None] + shift[:, None, None]
    if silu:
        y = silu_of(y)
    return y.to(x.dtype)
