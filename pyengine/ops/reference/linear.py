"""Specification of linear with its prologue and epilogue."""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from .._pack import quantize_rows, unpack_weight
from ._activations import gelu, gelu_tanh, quick_gelu
from ._activations import silu as silu_of
from .geglu import geglu, geglu_tanh

ACTIVATIONS = {
    "none": lambda y: y,
    "silu": silu_of,
    "gelu": gelu,
    "quick_gelu": quick_gelu,
    "geglu": geglu,
    "gelu_tanh": gelu_tanh,
    "geglu_tanh": geglu_tanh,
}
#: Those that make one number of a value and a gate, so that half of Cout remains.
GATED = frozenset({"geglu", "geglu_tanh"})


def dequantised(numbers: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """int8 or float8 [..., C] times its scales [...], in the wider of dtype and the scales'."""
    wide = torch.promote_types(dtype, scale.dtype)
    return numbers.to(wide) * scale.to(wide)[..., None]


def prologue(x: Tensor, x2: Tensor | None, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """x * scale + shift per picture, of x and x2 side by side."""
    if x2 is not None:
        x = torch.cat([x, x2], dim=-1)
    if scale is None or shift is None:
        return x
    rows = (x.shape[0], *(1,) * (x.dim() - 2), x.shape[-1])
    return x.to(scale.dtype) * scale.view(rows) + shift.view(rows)


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x's rows in e4m3, times their scales; in the wider of float32 and dtype.

    Its gradient is that of x itself (Bengio et al. 2013, arXiv:1308.3432): torch would round the
    gradient to e4m3 too, where nearly all of it is zero.
    """
    y = dequantised(*quantize_rows(x.detach(), torch.float8_e4m3fn), dtype)
    return y + (x - x.detach()) if x.requires_grad else y


def gated(y: Tensor, gate: Tensor | None, residual: Tensor | None) -> Tensor:
    """y * gate + residual, each where there is one; gate: a row per picture, y [N, ..., C]."""
    if gate is not None:
        y = y * gate.view(gate.shape[0], *(1,) * (y.dim() - 2), gate.shape[-1])
    return y if residual is None else y + residual


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    x2: Tensor | None = None,
    addend: Tensor | None = None,
    activation: str = "none",
    gate: Tensor | None = None,
    residual: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
    out_features: int | None = None,
    weight_scale: Tensor | None = None,
    quantize_x: bool = False,
) -> Tensor:
    """gate * activation(prologue(x) @ weight.T + bias + addend) + residual.

    x: [..., C], x2: [..., C2] side by side with it in C; weight: [Cout, C + C2], or panels of
    pack_weight; bias: [Cout].
    Prologue: x * scale + shift per picture, [N, C + C2] for x [N, ..., C]; SiLU if silu.
    addend: [..., Cout].  activation: none, silu, gelu (erf), gelu_tanh, quick_gelu, or geglu and
    geglu_tanh, which halve Cout: the first half times gelu or gelu_tanh of the second.
    gate: [N, Cout], or half of it, per picture.  residual: [..., Cout], or half of it.
    weight_scale: [Cout] with an int8 or float8_e4m3fn weight, which it multiplies.
    quantize_x: a row of the prologue's result is rounded to e4m3 numbers times a scale, by
    quantize_rows, before it meets a float8_e4m3fn weight.
    Computed in the widest dtype of x, weight and bias.  Returns x's dtype.
    """
    dtype = x.dtype
    x = prologue(x, x2, scale, shift)
    if weight.dim() == 3:
        told = next((t.shape[0] for t in (bias, weight_scale) if t is not None), out_features)
        weight = unpack_weight(weight, told)
    if weight_scale is not None:
        weight = dequantised(weight, weight_scale, dtype)
    if silu:
        x = silu_of(x)
    if quantize_x:
        x = rounded(x, dtype)
    wide = reduce(torch.promote_types, (t.dtype for t in (weight, bias) if t is not None), dtype)
    x, weight = x.to(wide), weight.to(wide)
    y = F.linear(x, weight, None if bias is None else bias.to(wide))
    y = ACTIVATIONS[activation](y if addend is None else y + addend)
    return gated(y, gate, residual).to(dtype)
