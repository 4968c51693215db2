"""What follows a convolution, in Triton: bias, time embedding, PReLU and residual in one pass."""

import triton
import triton.language as tl
from torch import Tensor

from ._launch import Launch, cdiv, power_of_2, prepare

# Elements per program: 16 for each of 128 threads, two 16-byte loads of a half-precision type; at
# most 64 channels of them, a cache line.
BLOCK = 2048
MOST_COLUMNS = 64


@triton.jit
def _epilogue(
    y,
    bias,
    channel_add,
    slopes,
    residual,
    positions,
    width,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    picture = tl.program_id(2).to(tl.int64)
    line = tl.arange(0, ROWS)
    inside = column < width
    mask = (row + line < positions)[:, None] & inside[None, :]
    start = (picture * positions + row) * width
    offset = line[:, None] * width + column[None, :]
    result = tl.load(y + start + offset, mask=mask, other=0.0).to(tl.float32)
    if bias is not None:
        result += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    if channel_add is not None:
        added = tl.load(channel_add + picture * width + column, mask=inside, other=0.0)
        result += added.to(tl.float32)[None, :]
    if slopes is not None:
        slope = tl.load(slopes + column, mask=inside, other=0.0).to(tl.float32)
        result = tl.where(result > 0.0, result, result * slope[None, :])
    if residual is not None:
        result += tl.load(residual + start + offset, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + start + offset, result.to(y.dtype.element_ty), mask=mask)


def plan(
    y: Tensor,
    bias: Tensor | None = None,
    channel_add: Tensor | None = None,
    residual: Tensor | None = None,
    slopes: Tensor | None = None,
) -> tuple[list[Launch], Tensor]:
    """The launches that compute add_epilogue(...), and the tensor they fill."""
    tensors = (bias, channel_add, residual, slopes)
    y, bias, channel_add, residual, slopes = prepare("conv2d", y, *tensors)
    if all(tensor is None for tensor in tensors):
        return [], y
    n, height, width, channels = y.shape
    columns = min(power_of_2(channels), MOST_COLUMNS)
    rows = BLOCK // columns
    launch = Launch(
        _epilogue,
        (cdiv(height * width, rows), cdiv(channels, columns), n),
        {"y": y, "bias": bias, "channel_add": channel_add, "slopes": slopes, "residual": residual}
        | {"positions": height * width, "width": channels},
        {"ROWS": rows, "COLUMNS": columns},
    )
    return [launch], y


def add_epilogue(
    y: Tensor,
    bias: Tensor | None = None,
    channel_add: Tensor | None = None,
    residual: Tensor | None = None,
    slopes: Tensor | None = None,
) -> Tensor:
    """y + bias + channel_add, PReLU by slopes, + residual, in float32 and rounded once; in place.

    y: [N, H, W, C] float32 | bfloat16 | float16, on a GPU, a convolution's result; a copy is
    changed instead of one that is not contiguous.  bias: [C]; channel_add: [N, C], the time
    embedding; residual: y's shape; slopes: [C], of values that are not above zero; each may be
    None.
    """
    launches, y = plan(y, bias, channel_add, residual, slopes)
    for launch in launches:
        launch.run()
    return y
