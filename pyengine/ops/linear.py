"""linear: a matrix product with its prologue and epilogue."""

import math
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _backend, _check, _int8, _memory, reference
from ._check import wrong
from ._core import DTYPES, WEIGHT_DTYPES, address, core, float32, multiplies_bfloat16
from ._op import Op
from ._pack import (
    PAIRS,
    PANEL,
    STEP,
    channels_of,
    check_told,
    is_paired,
    pack_quads,
    pack_weight,
    plain_weight,
    unpaired,
)
from .reference.linear import ACTIVATIONS, GATED, dequantised, gated, prologue, rounded

_CODES = {name: code for code, name in enumerate(ACTIVATIONS)}  # csrc/core/gemm/linear.h
#: Dtypes of weights that come with scales.
QUANTISED = (torch.int8, torch.float8_e4m3fn)


def _check_arguments(
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
) -> None:
    op = "linear"
    if x.dim() < 1:
        raise wrong(op, "x", "at least one dimension", "a scalar")
    channels = x.shape[-1]
    if x2 is not None:
        _check.shape(x2, (*x.shape[:-1], None), op, "x2")
        _check.like(x2, x, op, "x2")
        channels += x2.shape[-1]
    if activation not in ACTIVATIONS:
        raise wrong(op, "activation", f"one of {', '.join(ACTIVATIONS)}", repr(activation))
    if quantize_x and weight.dtype not in QUANTISED:
        wanted = "weights of torch.int8 or torch.float8_e4m3fn beside it"
        raise wrong(op, "quantize_x", wanted, weight.dtype)
    if quantize_x and silu and weight.dtype != torch.int8:
        raise wrong(op, "silu", "False beside quantize_x and e4m3 weights", silu)
    if quantize_x and weight.dtype == torch.int8 and channels > _int8.MOST:
        raise wrong(op, "x", f"at most {_int8.MOST} channels beside quantize_x", channels)
    if weight.dim() == 4 and not (quantize_x and weight.dtype == torch.int8):
        raise wrong(op, "quantize_x", "True beside weights that pack_quads made", quantize_x)
    features = _check_weight(op, x, weight, bias, channels, out_features, weight_scale)
    if addend is not None:
        _check.shape(addend, (*x.shape[:-1], features), op, "addend")
        _check.like(addend, x, op, "addend")
    if activation in GATED:
        if features % 2:
            wanted = f"an even number of output features for {activation}"
            raise wrong(op, "weight", wanted, features)
        features //= 2
    if gate is not None:
        if x.dim() < 2:
            raise wrong(op, "x", "at least two dimensions beside gate", list(x.shape))
        _check.shape(gate, (x.shape[0], features), op, "gate")
        _check.like(gate, x, op, "gate", dtype=False)
    if residual is not None:
        _check.shape(residual, (*x.shape[:-1], features), op, "residual")
        _check.like(residual, x, op, "residual")
    if (scale is None) != (shift is None):
        raise wrong(op, "scale", "both scale and shift or neither", "one")
    if scale is not None and shift is not None:
        if x.dim() < 2:
            raise wrong(op, "x", "at least two dimensions beside scale", list(x.shape))
        for name, tensor in (("scale", scale), ("shift", shift)):
            _check.shape(tensor, (x.shape[0], channels), op, name)
            _check.like(tensor, x, op, name, dtype=False)


def _check_weight(
    op: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    channels: int,
    out_features: int | None,
    weight_scale: Tensor | None,
) -> int:
    """Checks weight, its scales and bias against each other; returns Cout."""
    whole = weight.dtype in QUANTISED
    if whole and weight.device != x.device:
        raise wrong(op, "weight", f"x's device {x.device}", weight.device)
    if not whole:
        _check.like(weight, x, op, "weight", dtype=False)
    if whole != (weight_scale is not None):
        raise wrong(
            op,
            "weight_scale",
            "scales of int8 weights or e4m3 ones, and only of them",
            weight.dtype,
        )
    if not whole and weight.dtype != x.dtype and weight.dtype not in DTYPES:
        raise wrong(op, "weight", f"x's dtype {x.dtype} or one of at most 32 bits", weight.dtype)
    packed = weight.dim() in (3, 4)
    if weight.dim() == 4:
        _check.shape(weight, (None, -(-channels // STEP) * STEP // 4, PANEL, 4), op, "weight")
    else:
        panels = (channels // 2, 2 * PANEL) if is_paired(weight) else (channels, PANEL)
        _check.shape(weight, (None, *panels) if packed else (None, channels), op, "weight")
    if bias is not None:
        _check.shape(bias, (out_features if packed else weight.shape[0],), op, "bias")
        _check.like(bias, x, op, "bias", dtype=False)
    if weight_scale is not None:
        wanted = out_features if packed else weight.shape[0]
        _check.shape(weight_scale, (wanted,), op, "weight_scale")
        _check.like(weight_scale, x, op, "weight_scale", dtype=False)
    features = _features(weight, bias, out_features, weight_scale)
    if weight_scale is not None:
        _check.shape(weight_scale, (features,), op, "weight_scale")
    if out_features is not None and out_features != features:
        raise wrong(op, "out_features", f"{features}, as bias or weight has it", out_features)
    if packed and bias is None and weight_scale is None and out_features is None:
        check_told(op, "weight", weight, "bias or out_features")
    if packed and -(-features // PANEL) != weight.shape[0]:
        raise wrong(op, "weight", f"the panels of {features} features", f"{weight.shape[0]} panels")
    return features


def _features(
    weight: Tensor,
    bias: Tensor | None,
    out_features: int | None,
    weight_scale: Tensor | None = None,
) -> int:
    """Cout: what a packed weight, whose last panel may be padded, does not tell by itself."""
    if weight.dim() == 2:
        return weight.shape[0]
    if bias is not None:
        return bias.shape[0]
    if weight_scale is not None:
        return weight_scale.shape[0]
    return PANEL * weight.shape[0] if out_features is None else out_features


def _empty(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: str = "none",
    out_features: int | None = None,
    weight_scale: Tensor | None = None,
    **_: Any,
) -> Tensor:
    features = _features(weight, bias, out_features, weight_scale)
    return x.new_empty(*x.shape[:-1], features // 2 if activation in GATED else features)


def _panels(weight: Tensor, features: int, channels: int, activation: str, quads: bool) -> Tensor:
    """The weight as the kernel reads it, in quads for int8 products; gates of geglu begin with a
    panel of their own.
    """
    half = features // 2
    if activation in GATED and half % PANEL:
        plain = plain_weight(weight, features, channels)
        weight = F.pad(plain.unflatten(0, (2, half)), (0, 0, 0, -half % PANEL)).flatten(0, 1)
    if quads:
        return weight if weight.dim() == 4 else pack_quads(plain_weight(weight, features, channels))
    return pack_weight(weight) if weight.dim() == 2 else weight.contiguous()


def _cpu(
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
    features = _features(weight, bias, out_features, weight_scale)
    dtype, whole = x.dtype, quantize_x and weight.dtype == torch.int8
    channels = x.shape[-1] + (0 if x2 is None else x2.shape[-1])
    if quantize_x and not whole:
        x, x2, scale, shift = rounded(prologue(x, x2, scale, shift), dtype), None, None, None
        addend, residual = (None if t is None else t.float() for t in (addend, residual))
    if weight.dtype == torch.float8_e4m3fn and weight_scale is not None:
        # Made for GPUs: here widened in every call.
        weight = plain_weight(weight, features, channels)
        weight, weight_scale = dequantised(weight, weight_scale, torch.float32), None
    weight = _panels(weight, features, channels, activation, whole)
    code = WEIGHT_DTYPES[weight.dtype]
    if is_paired(weight):
        if x.dtype is torch.bfloat16 and multiplies_bfloat16():
            code = PAIRS
        else:
            weight = unpaired(weight, features)
    width = features // 2 if activation in GATED else features
    y = _memory.empty((*x.shape[:-1], width), x.dtype)
    x = x.contiguous()
    x2, addend, residual = (None if t is None else t.contiguous() for t in (x2, addend, residual))
    weight_scale, bias, scale, shift, gate = (
        None if t is None else float32(t) for t in (weight_scale, bias, scale, shift, gate)
    )
    picture_rows = 1 if scale is gate is None else math.prod(x.shape[1:-1])
    run = core().linear_int8 if whole else core().linear
    args = core().LinearArgs(
        x=address(x),
        x2=address(x2),
        rows=math.prod(x.shape[:-1]),
        channels=x.shape[-1],
        channels2=0 if x2 is None else x2.shape[-1],
        weight=address(weight),
        weight_dtype=code,
        weight_scale=address(weight_scale),
        bias=address(bias),
        scale=address(scale),
        shift=address(shift),
        picture_rows=picture_rows,
        silu=silu,
        addend=address(addend),
        activation=_CODES[activation],
        gate=address(gate),
        residual=address(residual),
        y=address(y),
        outputs=y.shape[-1],
        dtype=DTYPES[x.dtype],
    )
    run(args, torch.get_num_threads())
    return y.to(dtype)


def _torch(
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
    if quantize_x and weight.dtype == torch.int8:  # made for CPUs
        return reference.linear(
            x,
            weight,
            bias,
            x2=x2,
            addend=addend,
            activation=activation,
            gate=gate,
            residual=residual,
            scale=scale,
            shift=shift,
            silu=silu,
            out_features=out_features,
            weight_scale=weight_scale,
            quantize_x=True,
        )
    channels = x.shape[-1] + (0 if x2 is None else x2.shape[-1])
    weight = plain_weight(weight, _features(weight, bias, out_features, weight_scale), channels)
    if weight_scale is not None:
        weight = dequantised(weight, weight_scale, x.dtype)
    dtype = x.dtype
    if quantize_x:
        x, x2, scale, shift = rounded(prologue(x, x2, scale, shift), dtype), None, None, None
    wide = reduce(torch.promote_types, (t.dtype for t in (weight, bias) if t is not None), dtype)
    weight, bias = weight.to(wide), None if bias is None else bias.to(wide)
    if x2 is not None and wide == dtype == torch.float32 and scale is None and not silu:
        # Two products into one sum, since what lies side by side need not be laid side by side.
        first = x.shape[-1]
        y = F.linear(x, weight[:, :first], bias)
        rows = x2.reshape(-1, x2.shape[-1])
        y.view(-1, weight.shape[0]).addmm_(rows, weight[:, first:].T)
    else:  # a sum kept in half precision in between would be rounded twice
        x = x if x2 is None else torch.cat([x, x2], dim=-1)
        if scale is not None and shift is not None:
            each = (x.shape[0], *(1,) * (x.dim() - 2), x.shape[-1])
            x = torch.addcmul(shift.view(each), x.to(scale.dtype), scale.view(each))
        y = F.linear((F.silu(x) if silu else x).to(wide), weight, bias)
    if addend is not None:
        y = y + addend
    if activation == "silu":
        y = F.silu(y, inplace=True)
    elif activation in _GELUS and y.is_cuda:
        # One pass; elsewhere it may be oneDNN's, which is NaN at infinity.
        y = F.gelu(y, approximate=_GELUS[activation])
    elif activation != "none":
        y = ACTIVATIONS[activation](y)
    return gated(y, gate, residual).to(dtype).contiguous()


_GELUS = {"gelu": "none", "gelu_tanh": "tanh"}  # torch's names


#: The rows of one picture up to which our kernel runs on GPUs: a tile of its tensor cores.
FEW_ROWS = 16


def _serves(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    x2: Tensor | None = None,
    scale: Tensor | None = None,
    quantize_x: bool = False,
    **_: Any,
) -> bool:
    """Where reading the weights is all the time there is, and where they have 8 bits and tensor
    cores multiply; [N, C] is one row of every picture.
    """
    if weight.dim() != 2:
        return False
    if quantize_x and weight.dtype == torch.int8:
        return False
    few = math.prod(x.shape[1:-1]) <= FEW_ROWS
    narrow = weight.dtype in QUANTISED and x.dtype != torch.float32
    return quantize_x or ((few or narrow) and x2 is None and scale is None)


_TRITON = _backend.triton(
    "linear",
    why="our Triton, up to 16 rows a picture: weights are read once, a row's bits do not depend on "
    "the batch; and where they have 8 bits, which torch would widen first. cuBLAS for the others. "
    "By reasoning, not measured",
    serves=_serves,
)
_ROWS = (_backend.torch_backed(_torch), _backend.reference(reference.linear))

OP = Op(
    reference.linear,
    check=_check_arguments,
    fake=_empty,
    table={"cpu": (_backend.cpu(_cpu), *_ROWS), "cuda": (_TRITON, *_ROWS), _backend.ANY: _ROWS},
)


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
    """gate * activation(prologue(x) @ weight.T + bias + addend) + residual, in one pass over each.

    Args:
        x: [..., C] float32 | bfloat16 | float16 | float64.
        weight: [Cout, C + C2], or pack_weight's [ceil(Cout / 16), C + C2, 16], which the CPU's
            kernel reads as it is (a plain one it packs in every call), or pair_weight's; float32,
            bfloat16 or float16 whatever x's dtype, or x's.
        bias: [Cout] of any floating-point dtype, or None.
        x2: [..., C2] or None, side by side with it in C, of its dtype.
        addend: [..., Cout] in x's dtype, or None: what a side branch (LoRA) adds. A row of -0.0
            leaves the bits that the row has without one.
        activation: none, silu, gelu (erf), gelu_tanh (its approximation by tanh), quick_gelu, or
            geglu and geglu_tanh: the first half of Cout times gelu or gelu_tanh of the second, so
            that [..., Cout / 2] remains (Shazeer 2020, arXiv:2002.05202).
        gate: [N, Cout] (or half of it) of any floating-point dtype for x [N, ..., C], or None: one
            factor per picture and channel (adaLN-zero; Peebles & Xie 2022, arXiv:2212.09748).
        residual: of the result's shape and x's dtype, or None.
        scale, shift: the prologue x * scale + shift, [N, C + C2] of any floating-point dtype for x
            [N, ..., C] (group_norm_scale_shift's result); both or neither.
        silu: whether SiLU ends the prologue.
        out_features: Cout, where a packed weight is not pack_weight's own result, which remembers
            it, and neither bias nor scales tell it.
        weight_scale: [Cout] of any floating-point dtype, with an int8 or float8_e4m3fn weight,
            plain or packed, and only with one: weight * weight_scale is then what x is multiplied
            by (quantize_weight makes both).
        quantize_x: each row of the prologue's result is rounded to the weight's kind of numbers
            under a scale of its own. With an int8 weight, plain, in panels, or as
            quantize_weight(products=True) packs it, [ceil(Cout / 16), S / 4, 16, 4], S being C + C2
            rounded up to a multiple of 64: whole numbers, the row's largest magnitude 127, whose
            products are added up in int32, exactly; C + C2 at most 2^17 (docs/numerics.md). With a
            float8_e4m3fn weight: e4m3, the largest 448, so that tensor cores can multiply in fp8
            (Micikevicius et al. 2022, arXiv:2209.05433); made for GPUs: a CPU rounds x and widens
            the weights in every call; not with silu. A row that holds NaN or infinity becomes NaN.

    Returns:
        [..., Cout] or [..., Cout / 2] in x's dtype; computed in float32 at least.

    Raises:
        RequestError: for other shapes, dtypes and activations.
    """
    if out_features is None:
        out_features = channels_of(weight)
    return OP(
        x,
        weight,
        bias,
        x2=x2,
        addend=addend,
        activation=activation,
        gate=gate,
        residual=residual,
        scale=scale,
        shift=shift,
        silu=silu,
        out_features=out_features,
        weight_scale=weight_scale,
        quantize_x=quantize_x,
    )
