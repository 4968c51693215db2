"""Specification of linear with its prologue and epilogue."""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from .._pack import plain_weight, quantize_inputs, quantize_rows
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


def rounded(x: Tensor, dtype: torch.dtype, to: torch.dtype = torch.float8_e4m3fn) -> Tensor:
    """x's rows in e4m3 or int8, times their scales; in the wider of float32 and dtype.

    Its gradient is that of x itself (Bengio et al. 2013, arXiv:1308.3432): torch would round the
    gradient to e4m3 too, where nearly all of it is zero.
    """
    fixed = x.detach()
    numbers, scale = (
        quantize_inputs(fixed) if to == torch.int8 else quantize_rows(fixed, torch.float8_e4m3fn)
    )
    y = dequantised(numbers, scale, dtype)
    return y + (x - fixed) if x.requires_grad else y


def int8_sums(x: Tensor, weight: Tensor, weight_scale: Tensor, dtype: torch.dtype) -> Tensor:
    """The products of x's rows in int8 and an int8 weight [Cout, C]; in the wider of dtype and the
    scales'.

    Sums of whole numbers are exact. Then (sum * weight's scale) * row's scale, the sum and both
    products rounded to that dtype.
    """
    numbers, scale = quantize_inputs(x)
    wide = torch.promote_types(dtype, weight_scale.dtype)
    sums = F.linear(numbers.double(), weight.double()).to(wide)
    return (sums * weight_scale.to(wide)) * scale.to(wide)[..., None]


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
    quantize_x: a row of the prologue's result is rounded before it meets a weight of 8 bits: to
    e4m3 numbers times a scale, by quantize_rows, or to whole numbers, by quantize_inputs, whose
    products with the weight's are added up exactly (int8_sums).
    Computed in the widest dtype of x, weight and bias.  Returns x's dtype.
    """
    dtype = x.dtype
    x = prologue(x, x2, scale, shift)
    if weight.dim() > 2:
        told = next((t.shape[0] for t in (bias, weight_scale) if t is not None), out_features)
        weight = plain_weight(weight, told, x.shape[-1])
    if silu:
        x = silu_of(x)
    if quantize_x and weight.dtype == torch.int8 and weight_scale is not None:
        if not x.requires_grad:
            y = int8_sums(x, weight, weight_scale, dtype)
            y = y if bias is None else y + bias
            return _finished(y, addend, activation, gate, residual, dtype)
        x = rounded(x, dtype, torch.int8)
    elif quantize_x:
        x = rounded(x, dtype)
    if weight_scale is not None:
        weight = dequantised(weight, weight_scale, dtype)
    wide = reduce(torch.promote_types, (t.dtype for t in (weight, bias) if t is not None), dtype)
    x, weight = x.to(wide), weight.to(wide)
    y = F.linear(x, weight, None if bias is None else bias.to(wide))
    return _finished(y, addend, activation, gate, residual, dtype)


def _finished(
    y: Tensor,
    addend: Tensor | None,
    activation: str,
    gate: Tensor | None,
    residual: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    y = ACTIVATIONS[activation](y if addend is None else y + addend)
    return gated(y, gate, residual).to(dtype)
