"""layer_norm and rms_norm in Triton: each row read once.

Ba, Kiros & Hinton 2016, arXiv:1607.06450; Zhang & Sennrich 2019, arXiv:1910.07467.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ._launch import Launch, cdiv, power_of_2, prepare

# The widest row that is kept in registers: 32 float32 values for each of 16 warps' 512 threads.
MAX_WIDTH = 16384
# Of a wider row, this much at a time.
PIECE = 4096


# One program for any number of rows.
@triton.jit(do_not_specialize=["rows"])
def _layer_norm(x, weight, bias, y, rows, width, eps, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS
    line = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = column < width
    mask = (row + line < rows)[:, None] & inside[None, :]
    offset = line[:, None] * width + column[None, :]
    v = tl.load(x + row * width + offset, mask=mask, other=0.0).to(tl.float32)
    v -= (tl.sum(v, axis=1) / width)[:, None]
    v = tl.where(inside[None, :], v, 0.0)
    variance = tl.sum(v * v, axis=1) / width
    v *= (1.0 / tl.sqrt_rn(variance + eps))[:, None]
    if weight is not None:
        v *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    if bias is not None:
        v += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    tl.store(y + row * width + offset, v.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _layer_norm_wide(x, weight, bias, y, width, eps, PIECE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    line = tl.arange(0, PIECE)
    total = tl.zeros([PIECE], tl.float32)
    for start in range(0, width, PIECE):
        column = start + line
        total += tl.load(x + row + column, mask=column < width, other=0.0).to(tl.float32)
    mean = tl.sum(total, axis=0) / width
    total = tl.zeros([PIECE], tl.float32)
    for start in range(0, width, PIECE):
        column = start + line
        v = tl.load(x + row + column, mask=column < width, other=0.0).to(tl.float32)
        v = tl.where(column < width, v - mean, 0.0)
        total += v * v
    rstd = 1.0 / tl.sqrt_rn(tl.sum(total, axis=0) / width + eps)
    for start in range(0, width, PIECE):
        column = start + line
        mask = column < width
        v = (tl.load(x + row + column, mask=mask, other=0.0).to(tl.float32) - mean) * rstd
        if weight is not None:
            v *= tl.load(weight + column, mask=mask, other=0.0).to(tl.float32)
        if bias is not None:
            v += tl.load(bias + column, mask=mask, other=0.0).to(tl.float32)
        tl.store(y + row + column, v.to(y.dtype.element_ty), mask=mask)


def plan(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5
) -> tuple[list[Launch], Tensor]:
    """The launches that compute layer_norm(x), and the tensor they fill."""
    x, weight, bias = prepare("layer_norm", x, weight, bias)
    y = x.new_empty(x.shape)
    parts = {"weight": weight, "bias": bias}
    return [_row_launch(_layer_norm, _layer_norm_wide, x, parts, y, eps)], y


def _row_launch(
    kernel: Any, wide: Any, x: Tensor, parts: dict[str, Tensor | None], y: Tensor, eps: float
) -> Launch:
    """Of the kernel for rows that fit in registers, or of the one for wider ones."""
    width = x.shape[-1]
    rows = x.numel() // max(width, 1)
    tensors = {"x": x, **parts, "y": y}
    if width > MAX_WIDTH:
        args = {**tensors, "width": width, "eps": float(eps)}
        return Launch(wide, (rows,), args, {"PIECE": PIECE}, 8)
    columns = power_of_2(width)
    block = max(1, 2048 // columns)
    warps = min(max(block * columns // 512, 4), 16)
    args = {**tensors, "rows": rows, "width": width, "eps": float(eps)}
    constants = {"ROWS": block, "COLUMNS": columns}
    return Launch(kernel, (cdiv(rows, block),), args, constants, warps)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last dimension.

    x: [..., C] float32 | bfloat16 | float16, on a GPU; copied if not contiguous.
    weight, bias: [C] or None, of any floating-point dtype.
    Returns x's shape and dtype; sums in float32, the variance from differences to the mean.
    """
    launches, y = plan(x, weight, bias, eps)
    for launch in launches:
        launch.run()
    return y


# --- rms_norm -------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["rows"])
def _rms_norm(x, weight, y, rows, width, eps, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS
    line = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    inside = column < width
    mask = (row + line < rows)[:, None] & inside[None, :]
    offset = line[:, None] * width + column[None, :]
    v = tl.load(x + row * width + offset, mask=mask, other=0.0).to(tl.float32)
    v *= (1.0 / tl.sqrt_rn(tl.sum(v * v, axis=1) / width + eps))[:, None]
    if weight is not None:
        v *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    tl.store(y + row * width + offset, v.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _rms_norm_wide(x, weight, y, width, eps, PIECE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    line = tl.arange(0, PIECE)
    total = tl.zeros([PIECE], tl.float32)
    for start in range(0, width, PIECE):
        column = start + line
        v = tl.load(x + row + column, mask=column < width, other=0.0).to(tl.float32)
        total += v * v
    scale = 1.0 / tl.sqrt_rn(tl.sum(total, axis=0) / width + eps)
    for start in range(0, width, PIECE):
        column = start + line
        mask = column < width
        v = tl.load(x + row + column, mask=mask, other=0.0).to(tl.float32) * scale
        if weight is not None:
            v *= tl.load(weight + column, mask=mask, other=0.0).to(tl.float32)
        tl.store(y + row + column, v.to(y.dtype.element_ty), mask=mask)


def plan_rms_norm(
    x: Tensor, weight: Tensor | None = None, eps: float = 1e-6
) -> tuple[list[Launch], Tensor]:
    """The launches that compute rms_norm(x), and the tensor they fill."""
    x, weight = prepare("rms_norm", x, weight)
    y = x.new_empty(x.shape)
    return [_row_launch(_rms_norm, _rms_norm_wide, x, {"weight": weight}, y, eps)], y


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    x: [..., C] float32 | bfloat16 | float16, on a GPU; copied if not contiguous.
    weight: [C] or None, of any floating-point dtype.  Returns x's shape and dtype; sums in float32.
    """
    launches, y = plan_rms_norm(x, weight, eps)
    for launch in launches:
        launch.run()
    return y
