"""layer_norm in Triton: whole rows in registers.  Ba, Kiros & Hinton 2016, arXiv:1607.06450."""

import triton
import triton.language as tl
from torch import Tensor

from pyengine.errors import RequestError

from ._launch import Launch, cdiv, power_of_2, prepare

# A row must fit the registers of 16 warps: 32 float32 values for each of 512 threads.
MAX_WIDTH = 16384


@triton.jit
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


def plan(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5
) -> tuple[list[Launch], Tensor]:
    """The launches that compute layer_norm(x), and the tensor they fill."""
    x, weight, bias = prepare("layer_norm", x, weight, bias)
    width = x.shape[-1]
    if width > MAX_WIDTH:
        raise RequestError(
            f"layer_norm (Triton): x: expected at most {MAX_WIDTH} columns, got {width}"
        )
    y = x.new_empty(x.shape)
    rows = x.numel() // max(width, 1)
    columns = power_of_2(width)
    block = max(1, 2048 // columns)
    warps = min(max(block * columns // 512, 4), 16)
    args = {"x": x, "weight": weight, "bias": bias, "y": y}
    args |= {"rows": rows, "width": width, "eps": float(eps)}
    constants = {"ROWS": block, "COLUMNS": columns}
    return [Launch(_layer_norm, (cdiv(rows, block),), args, constants, warps)], y


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last dimension.

    x: [..., C] float32 | bfloat16 | float16, on a GPU, C at most 16384; copied if not contiguous.
    weight, bias: [C] or None, of any floating-point dtype.
    Returns x's shape and dtype; sums in float32, the variance from differences to the mean.
    """
    launches, y = plan(x, weight, bias, eps)
    for launch in launches:
        launch.run()
    return y
