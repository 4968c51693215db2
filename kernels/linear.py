"""linear in Triton, for few rows: a token of every sequence, a time embedding of every picture.

Then reading the weights is all the time there is. A program reads some rows of the weight once, 16
bytes at a time, for a block of rows of x; the block is padded, so one program serves any number of
rows and a row's bits do not depend on the others. 16-bit x and weights are multiplied by tensor
cores, others in float32, where a lane sums every 64th product and the lanes are added at the end.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyengine.ops._pack import unpack_weight

from ._launch import Launch, cdiv, prepare, readable

#: Rows and depth of a block: 16 is the least that tensor cores take, 4 x 16 x 64 sums are 32
#: registers for each of 128 threads.
DOT_ROWS, DOT_DEPTH = 16, 256
SUM_ROWS, SUM_DEPTH = 4, 64
COLUMNS = 16


@triton.jit
def _gelu(v):
    return 0.5 * v * (1.0 + tl.erf(v * 0.7071067811865476))


@triton.jit
def _finish(
    sums, gates, weight_scale, bias, residual, y, row, there, column, inside, width,
    ACTIVATION: tl.constexpr,
):  # fmt: skip
    """activation(sums * weight_scale + bias) + residual, rounded and stored once."""
    if weight_scale is not None:
        sums *= tl.load(weight_scale + column, mask=inside, other=0.0).to(tl.float32)[None, :]
        if ACTIVATION == "geglu":
            beyond = weight_scale + width + column
            gates *= tl.load(beyond, mask=inside, other=0.0).to(tl.float32)[None, :]
    if bias is not None:
        sums += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
        if ACTIVATION == "geglu":
            beyond = bias + width + column
            gates += tl.load(beyond, mask=inside, other=0.0).to(tl.float32)[None, :]
    if ACTIVATION == "geglu":
        sums *= _gelu(gates)
    if ACTIVATION == "gelu":
        sums = _gelu(sums)
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
    ACTIVATION: tl.constexpr, SILU: tl.constexpr,
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
    second = weight + width.to(tl.int64) * depth
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
        b = tl.load(weight + place, mask=mask, other=0.0)
        sums = tl.dot(a, tl.trans(b.to(a.dtype)), sums)
        if ACTIVATION == "geglu":
            b = tl.load(second + place, mask=mask, other=0.0)
            gates = tl.dot(a, tl.trans(b.to(a.dtype)), gates)
    _finish(
        sums, gates, weight_scale, bias, residual, y, row, there, first + outputs, inside, width,
        ACTIVATION,
    )  # fmt: skip


@triton.jit(do_not_specialize=["rows"])
def _linear_sum(
    x, weight, weight_scale, bias, residual, y, rows, depth, width,
    ACTIVATION: tl.constexpr, SILU: tl.constexpr,
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
    second = weight + width.to(tl.int64) * depth
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
        sums += a * tl.load(weight + place, mask=mask, other=0.0).to(tl.float32)
        if ACTIVATION == "geglu":
            gates += a * tl.load(second + place, mask=mask, other=0.0).to(tl.float32)
    _finish(
        tl.sum(sums, axis=2), tl.sum(gates, axis=2),
        weight_scale, bias, residual, y, row, there, first + outputs, inside, width, ACTIVATION,
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
) -> tuple[list[Launch], Tensor]:
    """The launches that compute linear(...), and the tensor they fill."""
    dtype = x.dtype
    if weight.dim() == 3:
        known = out_features if bias is None else bias.shape[0]
        weight = unpack_weight(weight, known)
    x, weight, bias, residual = prepare("linear", x, weight, bias, residual)
    x = readable(_prologue(x, x2, scale, shift))
    features, depth = weight.shape
    width = features // 2 if activation == "geglu" else features
    y = torch.empty(*x.shape[:-1], width, dtype=dtype, device=x.device)
    rows = x.shape[:-1].numel()
    dot = x.dtype == weight.dtype != torch.float32
    block, deep = (DOT_ROWS, DOT_DEPTH) if dot else (SUM_ROWS, SUM_DEPTH)
    args = {"x": x, "weight": weight, "weight_scale": None, "bias": bias, "residual": residual}
    args |= {"y": y, "rows": rows, "depth": depth, "width": width}
    constants = {"ACTIVATION": activation, "SILU": silu}
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
) -> Tensor:
    """activation(prologue(x) @ weight.T + bias) + residual; arguments as pyengine.ops.linear's.

    x: [..., C] float32 | bfloat16 | float16, on a GPU; copied if not contiguous.  Right for any
    number of rows, and made for few: every 16 (4 in float32) read the whole weight.
    """
    launches, y = plan(
        x, weight, bias, x2=x2, activation=activation, residual=residual, scale=scale, shift=shift,
        silu=silu, out_features=out_features,
    )  # fmt: skip
    for launch in launches:
        launch.run()
    return y
