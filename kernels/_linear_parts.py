"""What linear's kernels share: where a program works, how weights are widened, what follows the
sums.
"""

import triton
import triton.language as tl

from .geglu import gelu


@triton.jit
def gelu_tanh(x):
    """GELU by tanh, as x / (1 + exp(-2 u)): the reference's formula, with sqrt(8 / pi)."""
    return x * tl.sigmoid((x + 0.044715 * x * x * x) * 1.5957691216057308)


@triton.jit
def widened(b, dtype: tl.constexpr):
    """Weights in a wider dtype, exactly; of e4m3 the 256th part, which every chip can make: the
    exponent's 4 bits are put in place of float16's 5, and counts from 7 instead of 15."""
    if b.dtype == tl.uint8:
        bits = b.to(tl.uint16)
        bits = ((bits & 0x80) << 8) | ((bits & 0x7F) << 7)
        b = bits.to(tl.uint16).to(tl.float16, bitcast=True)
    return b.to(dtype)


@triton.jit
def rows_of(x, rows, depth, ROWS: tl.constexpr):
    """A program's rows of x [rows, depth]: where they begin, their numbers from there and from x's
    beginning, and which there are."""
    line = tl.arange(0, ROWS)
    first = tl.program_id(0).to(tl.int64) * ROWS
    row = first + line
    return x + first * depth, line, row, row < rows


@triton.jit
def outputs_of(weight, depth, width, COLUMNS: tl.constexpr):
    """A program's rows of weight [width or 2 width, depth]: where they begin, and those of gates;
    their numbers from there and from the weight's beginning, and which there are."""
    outputs = tl.arange(0, COLUMNS)
    first = tl.program_id(1) * COLUMNS
    weight += first.to(tl.int64) * depth
    second = weight + (tl.zeros([], tl.int64) + width) * depth
    return weight, second, outputs, first + outputs, first + outputs < width


@triton.jit
def finish(
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
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    UNIT: tl.constexpr,
):
    """gate * activation(sums * weight_scale + bias + addend) + residual, rounded and stored once.

    lines: rows of a picture, which share a row of gate.
    """
    if weight_scale is not None:
        scale = tl.load(weight_scale + column, mask=inside, other=0.0).to(tl.float32)
        sums *= (scale * UNIT)[None, :]
        if GATED:
            scale = tl.load(weight_scale + width + column, mask=inside, other=0.0).to(tl.float32)
            gates *= (scale * UNIT)[None, :]
    if bias is not None:
        sums += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
        if GATED:
            beyond = bias + width + column
            gates += tl.load(beyond, mask=inside, other=0.0).to(tl.float32)[None, :]
    mask = there[:, None] & inside[None, :]
    if addend is not None:
        if GATED:
            value = addend + row[:, None] * (2 * width) + column[None, :]
            sums += tl.load(value, mask=mask, other=0.0).to(tl.float32)
            gates += tl.load(value + width, mask=mask, other=0.0).to(tl.float32)
        else:
            value = addend + row[:, None] * width + column[None, :]
            sums += tl.load(value, mask=mask, other=0.0).to(tl.float32)
    if ACTIVATION == "geglu":
        sums *= gelu(gates)
    if ACTIVATION == "geglu_tanh":
        sums *= gelu_tanh(gates)
    if ACTIVATION == "gelu_tanh":
        sums = gelu_tanh(sums)
    if ACTIVATION == "gelu":
        sums = gelu(sums)
    if ACTIVATION == "silu":
        sums *= tl.sigmoid(sums)
    if ACTIVATION == "quick_gelu":
        sums *= tl.sigmoid(1.702 * sums)
    if gate is not None:
        picture = (row // lines)[:, None] * width
        sums *= tl.load(gate + picture + column[None, :], mask=mask, other=0.0).to(tl.float32)
    place = row[:, None] * width + column[None, :]
    if residual is not None:
        sums += tl.load(residual + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + place, sums.to(y.dtype.element_ty), mask=mask)
