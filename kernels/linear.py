"""linear in Triton: for few rows (a token of every sequence, a time embedding of every picture),
and, in _linear_tiles.py, with weights of 8 bits for many.

With few rows reading the weights is all the time there is. A program reads some rows of the weight
once, 16 bytes at a time, for a block of rows of x; the block is padded, so one program serves any
number of rows and a row's bits do not depend on the others. Where x has 16 bits and the weights as
many or 8, tensor cores multiply; others are multiplied in float32, where a lane sums every 64th
product and the lanes are added at the end. Weights of 8 bits are exact in 16; their sums are
scaled.
"""

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from pyengine.ops.reference.linear import GATED

from . import _linear_tiles
from ._launch import DTYPES, Launch, cdiv, prepare, readable
from ._linear_parts import finish, outputs_of, rows_of, widened

#: Rows and depth of a block: 16 is the least that tensor cores take, 4 x 16 x 64 sums are 32
#: registers for each of 128 threads.
DOT_ROWS, DOT_DEPTH = 16, 256
SUM_ROWS, SUM_DEPTH = 4, 64
COLUMNS = 16


@triton.jit(do_not_specialize=["rows", "lines"])
def _linear_dot(
    x,
    weight,
    weight_scale,
    bias,
    addend,
    gate,
    residual,
    y,
    rows,
    depth,
    width,
    lines,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    SILU: tl.constexpr,
    UNIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    x, line, row, there = rows_of(x, rows, depth, ROWS)
    weight, second, outputs, column, inside = outputs_of(weight, depth, width, COLUMNS)
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    gates = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, depth, DEPTH):
        k = start + tl.arange(0, DEPTH)
        deep = (k < depth)[None, :]
        a = tl.load(x + line[:, None] * depth + k[None, :], mask=there[:, None] & deep, other=0.0)
        if SILU:
            wide = a.to(tl.float32)
            a = (wide * tl.sigmoid(wide)).to(a.dtype)
        place = outputs[:, None] * depth + k[None, :]
        mask = inside[:, None] & deep
        b = tl.load(weight + place, mask=mask, other=0)
        sums = tl.dot(a, tl.trans(widened(b, a.dtype)), sums)
        if GATED:
            b = tl.load(second + place, mask=mask, other=0)
            gates = tl.dot(a, tl.trans(widened(b, a.dtype)), gates)
    finish(
        sums,
        gates,
        weight_scale,
        bias,
        addend,
        gate,
        residual,
        y,
        row,
        there,
        column,
        inside,
        width,
        lines,
        ACTIVATION,
        GATED,
        UNIT,
    )


@triton.jit(do_not_specialize=["rows", "lines"])
def _linear_sum(
    x,
    weight,
    weight_scale,
    bias,
    addend,
    gate,
    residual,
    y,
    rows,
    depth,
    width,
    lines,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    SILU: tl.constexpr,
    UNIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    x, line, row, there = rows_of(x, rows, depth, ROWS)
    weight, second, outputs, column, inside = outputs_of(weight, depth, width, COLUMNS)
    sums = tl.zeros([ROWS, COLUMNS, DEPTH], tl.float32)
    gates = tl.zeros([ROWS, COLUMNS, DEPTH], tl.float32)
    for start in tl.range(0, depth, DEPTH, num_stages=4):
        k = start + tl.arange(0, DEPTH)
        deep = k < depth
        mask = there[:, None, None] & deep[None, None, :]
        a = tl.load(x + line[:, None, None] * depth + k[None, None, :], mask=mask, other=0.0)
        a = a.to(tl.float32)
        if SILU:
            a *= tl.sigmoid(a)
        place = outputs[None, :, None] * depth + k[None, None, :]
        mask = inside[None, :, None] & deep[None, None, :]
        sums += a * widened(tl.load(weight + place, mask=mask, other=0), tl.float32)
        if GATED:
            gates += a * widened(tl.load(second + place, mask=mask, other=0), tl.float32)
    finish(
        tl.sum(sums, axis=2),
        tl.sum(gates, axis=2),
        weight_scale,
        bias,
        addend,
        gate,
        residual,
        y,
        row,
        there,
        column,
        inside,
        width,
        lines,
        ACTIVATION,
        GATED,
        UNIT,
    )


def _prologue(x: Tensor, x2: Tensor | None, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """By torch: what comes with few rows has none of this."""
    if x2 is not None:
        x = torch.cat([x, x2], dim=-1)
    if scale is None:
        return x
    rows = (x.shape[0], *(1,) * (x.dim() - 2), x.shape[-1])
    wide = torch.promote_types(scale.dtype, torch.float32)
    return torch.addcmul(shift.view(rows).to(wide), x.to(wide), scale.view(rows).to(wide))


def plan(
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
) -> tuple[list[Launch], Tensor]:
    """The launches that compute linear(...), and the tensor they fill."""
    if quantize_x and weight.dtype == torch.int8:
        raise ValueError("weight: expected torch.float8_e4m3fn beside quantize_x, got torch.int8")
    dtype = x.dtype
    e4m3 = weight.dtype == torch.float8_e4m3fn
    if e4m3:
        weight = weight.view(torch.uint8)
    elif weight_scale is None and weight.dtype not in DTYPES:
        weight = weight.float()
    if weight.dim() == 3:  # pack_weight's panels of 16 outputs
        told = next((t.shape[0] for t in (bias, weight_scale) if t is not None), out_features)
        weight = weight.mT.flatten(0, 1)[:told]
    weight = readable(weight)
    x, weight_scale, *ends = prepare("linear", x, weight_scale, bias, addend, gate, residual)
    ends = dict(zip(("bias", "addend", "gate", "residual"), ends, strict=True))
    x = readable(_prologue(x, x2, scale, shift))
    features, depth = weight.shape
    gated = activation in GATED
    width = features // 2 if gated else features
    y = torch.empty(*x.shape[:-1], width, dtype=dtype, device=x.device)
    rows = x.shape[:-1].numel()
    many = (
        weight_scale is not None and x.dtype != torch.float32 and x.shape[1:-1].numel() > DOT_ROWS
    )
    if quantize_x or many:
        x = F.silu(x) if silu else x
        launches = _linear_tiles.plan(x, weight, weight_scale, ends, y, activation, quantize_x)
        return launches, y
    dot = x.dtype != torch.float32 and (weight.dtype == x.dtype or weight_scale is not None)
    block, deep = (DOT_ROWS, DOT_DEPTH) if dot else (SUM_ROWS, SUM_DEPTH)
    args = {"x": x, "weight": weight, "weight_scale": weight_scale, **ends, "y": y}
    args |= {"rows": rows, "depth": depth, "width": width, "lines": x.shape[1:-1].numel()}
    constants = {"ACTIVATION": activation, "GATED": gated, "SILU": silu}
    constants |= {"UNIT": 256 if e4m3 else 1}
    constants |= {"ROWS": block, "COLUMNS": COLUMNS, "DEPTH": deep}
    grid = (cdiv(rows, block), cdiv(width, COLUMNS))
    stages = 4 if gated else 5
    kernel = _linear_dot if dot else _linear_sum
    return [Launch(kernel, grid, args, constants, num_stages=stages)], y


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
    """gate * activation(prologue(x) @ weight.T + bias + addend) + residual; arguments as
    pyengine.ops.linear's.

    x: [..., C] float32 | bfloat16 | float16, on a GPU; copied if not contiguous.  Right for any
    number of rows, and made for few unless the weights have 8 bits: every 16 rows (4 in float32)
    read the whole weight.
    """
    launches, y = plan(
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
    for launch in launches:
        launch.run()
    return y
