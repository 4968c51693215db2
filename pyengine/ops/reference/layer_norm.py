"""Specifications of layer_norm and rms_norm.  Ba, Kiros & Hinton 2016, arXiv:1607.06450."""

import torch
from torch import Tensor


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last dimension.

    x: [..., C]; weight, bias: [C] or None.  Accumulates in float32; returns x's shape and dtype.
    """
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    y = x.to(acc)
    y = y - y.mean(dim=-1, keepdim=True)
    y = y * torch.rsqrt(y.square().mean(dim=-1, keepdim=True) + eps)
    if weight is not None:
        y = y * weight.to(acc)
    if bias is not None:
        y = y + bias.to(acc)
    return y.to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    x: [..., C]; weight: [C] or None.  Accumulates in float32; returns x's shape and dtype.
    Zhang & Sennrich 2019, arXiv:1910.07467.
    """
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    y = x.to(acc)
    y = y * torch.rsqrt(y.square().mean(dim=-1, keepdim=True) + eps)
    return (y if weight is None else y * weight.to(acc)).to(x.dtype)
