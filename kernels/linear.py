"""linear in Triton, for few rows: a token of every sequence, a time embedding of every picture.

Then reading the weights is all the time there is. A program reads some rows of the weight once, 16
bytes at a time, for a block of rows of x; the block is padded, so one program serves any number of
rows and a row's bits do not depend on the others. Where x has 16 bits and the weights as many or 8,
tensor cores multiply; others are multiplied in float32, where a lane sums every 64th product and
the lanes are added at the end. Weights of 8 bits are exact in 16; their sums are scaled.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import DTYPES, Launch, cdiv, prepare, readable
from .geglu import gelu

#: Rows and depth of a block: 16 is the least that tensor cores take, 4 x 16 x 64 sums are 32
#: registers for each of 128 threads.
DOT_ROWS, DOT_DEPTH = 16, 256
SUM_ROWS, SUM_DEPTH = 4, 64
COLUMNS = 16


@triton.jit
def _widened(b, dtype: tl.constexpr):
    """Weights in a wider dtype, exactly; of e4m3 the 256th part, which every chip can make: the
    exponent's 4 bits are put in place of float16's 5, and counts from 7 instead of 15."""
    if b.dtype == tl.uint8:
        bits = b.to(tl.uint16)
        bits = ((bits & 0x80) << 8) | ((bits & 0x7F) << 7)
        b = bits.to(tl.uint16).to(tl.float16, bitcast=True)
    return b.to(dtype)


@triton.jit
def _finish(
    sums, gates, weight_scale, bias, residual, y, row, there, column, inside, width,
    ACTIVATION: tl.constexpr, UNIT: tl.constexpr,
):  # fmt: skip
    """activation(sums * weight_scale + bias) + residual, rounded and stored once."""
    if weight_scale is not None:
        scale = tl.load(weight_scale + column, mask=inside, other=0.0).to(tl.float32)
        sums *= (scale * UNIT)[None, :]
        if ACTIVATION == "geglu":
            scale = tl.load(weight_scale + width + column, mask=inside, other=0.0).to(tl.float32)
            gates *= (scale * UNIT)[None, :]
    if bias is not None:
        sums += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
        if ACTIVATION == "geglu":
            beyond = bias + width + column
            gates += tl.load(beyond, mask=inside, other=0.0).to(tl.float32)[None, :]
    if ACTIVATION == "geglu":
        sums *= gelu(gates)
    if ACTIVATION == "gelu":
        sums = gelu(sums)
    if ACTIVATION == "silu":
        sums *= tl.sigmoid(sums)
    if ACTIVATION == "quick_gelu":
        sums *= tl.sigmoid(1.702 * sums)
    place = row[:, None] * width + column[None, :]
    mask = there[:, None] & inside[None, :]
    if residual is not None:
        sums += tl.load(residual + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + place, sums.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])
def _linear_dot(
    x, weight, weight_scale, bias, residual, y, rows, depth, width,
    ACTIVATION: tl.constexpr, SILU: tl.constexpr, UNIT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    line = tl.arange(0, ROWS)
    row = tl.program_id(0).to(tl.int64) * ROWS + line
    there = row < rows
    first = tl.program_id(1) * COLUMNS
    outputs = tl.arange(0, COLUMNS)
    inside = first + outputs < width
    x += tl.program_id(0).to(tl.int64) * ROWS * depth
    weight += first.to(tl.int64) * depth
    second = weight + (tl.zeros([], tl.int64) + width) * depth
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
        sums = tl.dot(a, tl.trans(_widened(b, a.dtype)), sums)
        if ACTIVATION == "geglu":
            b = tl.load(second + place, mask=mask, other=0)
            gates = tl.dot(a, tl.trans(_widened(b, a.dtype)), gates)
    _finish(
        sums, gates, weight_scale, bias, residual, y, row, there, first + outputs, inside, width,
        ACTIVATION, UNIT,
    )  # fmt: skip


@triton.jit(do_not_specialize=["rows"])
def _linear_sum(
    x, weight, weight_scale, bias, residual, y, rows, depth, width,
    ACTIVATION: tl.constexpr, SILU: tl.constexpr, UNIT: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    line = tl.arange(0, ROWS)
    row = tl.program_id(0).to(tl.int64) * ROWS + line
    there = row < rows
    first = tl.program_id(1) * COLUMNS
    outputs = tl.arange(0, COLUMNS)
    inside = first + outputs < width
    x += tl.program_id(0).to(tl.int64) * ROWS * depth
    weight += first.to(tl.int64) * depth
    second = weight + (tl.zeros([], tl.int64) + width) * depth
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
        sums += a * _widened(tl.load(weight + place, mask=mask, other=0), tl.float32)
        if ACTIVATION == "geglu":
            gates += a * _widened(tl.load(second + place, mask=mask, other=0), tl.float32)
    _finish(
        tl.sum(sums, axis=2), tl.sum(gates, axis=2),
        weight_scale, bias, residual, y, row, there, first + outputs, inside, width,
        ACTIVATION, UNIT,
    )  # fmt: skip


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
    activation: str = "none",
    residual: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
    out_features: int | None = None,
    weight_scale: Tensor | None = None,
) -> tuple[list[Launch], Tensor]:
    """The launches that compute linear(...), and the tensor they fill."""
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
    x, bias, residual, weight_scale = prepare("linear", x, bias, residual, weight_scale)
    x = readable(_prologue(x, x2, scale, shift))
    features, depth = weight.shape
    width = features // 2 if activation == "geglu" else features
    y = torch.empty(*x.shape[:-1], width, dtype=dtype, device=x.device)
    rows = x.shape[:-1].numel()
    dot = x.dtype != torch.float32 and (weight.dtype == x.dtype or weight_scale is not None)
    block, deep = (DOT_ROWS, DOT_DEPTH) if dot else (SUM_ROWS, SUM_DEPTH)
    args = {
        "x": x,
        "weight": weight,
        "weight_scale": weight_scale,
        "bias": bias,
        "residual": residual,
    }
    args |= {"y": y, "rows": rows, "depth": depth, "width": width}
    constants = {"ACTIVATION": activation, "SILU": silu, "UNIT": 256 if e4m3 else 1}
    constants |= {"ROWS": block, "COLUMNS": COLUMNS, "DEPTH": deep}
    grid = (cdiv(rows, block), cdiv(width, COLUMNS))
    stages = 4 if activation == "geglu" else 5
    kernel = _linear_dot if dot else _linear_sum
    return [Launch(kernel, grid, args, constants, num_stages=stages)], y


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    x2: Tensor | None = None,
    activation: str = "none",
    residual: Tensor | None = None,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    silu: bool = False,
    out_features: int | None = None,
    weight_scale: Tensor | None = None,
) -> Tensor:
    """activation(prologue(x) @ weight.T + bias) + residual; arguments as pyengine.ops.linear's.

    x: [..., C] float32 | bfloat16 | float16, on a GPU; copied if not contiguous.  Right for any
    number of rows, and made for few: every 16 (4 in float32) read the whole weight.
    """
    launches, y = plan(
        x, weight, bias, x2=x2, activation=activation, residual=residual, scale=scale, shift=shift,
        silu=silu, out_features=out_features, weight_scale=weight_scale,
    )  # fmt: skip
    for launch in launches:
        launch.run()
    return y
