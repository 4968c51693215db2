"""geglu and swiglu in Triton: one pass, each element of x read once.

Shazeer 2020, arXiv:2002.05202.
"""

import triton
import triton.language as tl
from torch import Tensor

from ._launch import Launch, cdiv, power_of_2, prepare

# Elements per program: 8 for each of 128 threads, one 16-byte load of a half-precision type.
BLOCK = 1024


@triton.jit
def gelu(v):
    """The exact (erf) GELU."""
    return 0.5 * v * (1.0 + tl.erf(v * 0.7071067811865476))


# One program for any number of rows.
@triton.jit(do_not_specialize=["rows"])
def _geglu(x, y, rows, width, SILU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    line = tl.arange(0, ROWS)
    mask = (row + line < rows)[:, None] & (column < width)[None, :]
    source = x + row * 2 * width + line[:, None] * (2 * width) + column[None, :]
    value = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(source + width, mask=mask, other=0.0).to(tl.float32)
    result = value * (gate / (1.0 + tl.exp(-gate)) if SILU else gelu(gate))
    target = y + row * width + line[:, None] * width + column[None, :]
    tl.store(target, result.to(y.dtype.element_ty), mask=mask)


def plan(x: Tensor) -> tuple[list[Launch], Tensor]:
    """The launches that compute geglu(x), and the tensor they fill."""
    return _plan("geglu", x)


def plan_swiglu(x: Tensor) -> tuple[list[Launch], Tensor]:
    """The launches that compute swiglu(x), and the tensor they fill."""
    return _plan("swiglu", x)


def _plan(op: str, x: Tensor) -> tuple[list[Launch], Tensor]:
    (x,) = prepare(op, x)
    width = x.shape[-1] // 2
    rows = x.numel() // max(2 * width, 1)
    y = x.new_empty(*x.shape[:-1], width)
    columns = min(power_of_2(width), BLOCK)
    block = BLOCK // columns
    grid = (cdiv(rows, block), cdiv(width, columns))
    args = {"x": x, "y": y, "rows": rows, "width": width}
    constants = {"SILU": op == "swiglu", "ROWS": block, "COLUMNS": columns}
    return [Launch(_geglu, grid, args, constants)], y


def geglu(x: Tensor) -> Tensor:
    """value * GELU(gate), x = [value, gate] in the last dimension; the exact (erf) GELU.

    x: [..., 2 * D] float32 | bfloat16 | float16, on a GPU; copied if not contiguous.
    Returns [..., D] in x's dtype, computed in float32.
    """
    launches, y = plan(x)
    for launch in launches:
        launch.run()
    return y


def swiglu(x: Tensor) -> Tensor:
    """value * SiLU(gate), x = [value, gate] in the last dimension.

    x: [..., 2 * D] float32 | bfloat16 | float16, on a GPU; copied if not contiguous.
    Returns [..., D] in x's dtype, computed in float32.
    """
    launches, y = plan_swiglu(x)
    for launch in launches:
        launch.run()
    return y
