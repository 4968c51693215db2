"""rotary and rotary_cache in Triton: one pass.  Su et al. 2021, arXiv:2104.09864."""

import triton
import triton.language as tl
from torch import Tensor

from ._launch import Launch, cdiv, power_of_2, prepare, readable

# Channels per program of what is copied.
BLOCK = 1024


# A program per row and head. Nothing hangs on how many rows or pictures there are.
@triton.jit(do_not_specialize=["rows", "x_picture", "x_row", "y_picture"])
def _rotary(
    x, y, cosines, sines, positions, lengths, rows, x_picture, x_row, y_picture, y_row, half,
    CACHED: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(0).to(tl.int64)
    picture = item // rows
    row = item % rows
    if lengths is not None:
        position = tl.load(lengths + picture) + row
    else:
        position = tl.load(positions + item)
    place = position if CACHED else row
    head = tl.program_id(1) * 2 * half
    source = x + picture * x_picture + row * x_row + head
    target = y + picture * y_picture + place * y_row + head
    c = tl.arange(0, HALF)
    inside = c < half
    a = tl.load(source + c, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(source + half + c, mask=inside, other=0.0).to(tl.float32)
    cosine = tl.load(cosines + position * half + c, mask=inside, other=0.0).to(tl.float32)
    sine = tl.load(sines + position * half + c, mask=inside, other=0.0).to(tl.float32)
    tl.store(target + c, (a * cosine - b * sine).to(y.dtype.element_ty), mask=inside)
    tl.store(target + half + c, (b * cosine + a * sine).to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["rows", "x_picture", "x_row", "y_picture"])
def _place(
    x, y, lengths, rows, x_picture, x_row, y_picture, y_row, width,
    CACHED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(0).to(tl.int64)
    picture = item // rows
    row = item % rows
    place = tl.load(lengths + picture) + row if CACHED else row
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = c < width
    value = tl.load(x + picture * x_picture + row * x_row + c, mask=inside, other=0.0)
    target = y + picture * y_picture + place * y_row + c
    tl.store(target, value.to(tl.float32).to(y.dtype.element_ty), mask=inside)


def _steps(x: Tensor, y: Tensor) -> dict[str, int]:
    steps = {"rows": x.shape[1], "x_picture": x.stride(0), "x_row": x.stride(1)}
    return steps | {"y_picture": y.stride(0), "y_row": y.stride(1)}


def _turned(x: Tensor, y: Tensor, tables: dict, width: int, cached: bool) -> Launch:
    """All heads of x [N, L, C], turned, into y: [N, L, C], or a cache [N, most, C]."""
    half = width // 2
    return Launch(
        _rotary,
        (x.shape[0] * x.shape[1], x.shape[2] // width),
        {"x": x, "y": y, **tables, **_steps(x, y), "half": half},
        {"CACHED": cached, "HALF": power_of_2(half)},
    )


def _placed(x: Tensor, y: Tensor, lengths: Tensor, cached: bool) -> Launch:
    """The same, as it is."""
    width = x.shape[2]
    return Launch(
        _place,
        (x.shape[0] * x.shape[1], cdiv(width, BLOCK)),
        {"x": x, "y": y, "lengths": lengths, **_steps(x, y), "width": width},
        {"CACHED": cached, "BLOCK": BLOCK},
    )


def plan(
    x: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor, heads: int
) -> tuple[list[Launch], Tensor]:
    """The launches that compute rotary(...), and the tensor they fill."""
    x, cosines, sines = prepare("rotary", x, cosines, sines)
    y = x.new_empty(x.shape)
    tables = {"cosines": cosines, "sines": sines, "positions": readable(positions)}
    tables["lengths"] = None
    return [_turned(x, y, tables, x.shape[2] // heads, False)], y


def rotary(x: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor, heads: int) -> Tensor:
    """Each head's halves turned by the row's position; arguments as pyengine.ops.rotary's.

    x: [N, L, heads * D] float32 | bfloat16 | float16, on a GPU; copied if not contiguous.  The
    positions must lie within the tables: pyengine.ops looks.
    """
    launches, y = plan(x, cosines, sines, positions, heads)
    for launch in launches:
        launch.run()
    return y


def plan_rotary_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    heads: int,
    cosines: Tensor | None = None,
    sines: Tensor | None = None,
) -> tuple[list[Launch], Tensor]:
    """The launches that compute rotary_cache(...), and what they fill beside the cache."""
    q, k, v, cosines, sines = prepare("rotary_cache", q, k, v, cosines, sines)
    y = q.new_empty(q.shape)
    lengths = readable(lengths)
    if cosines is None:
        turned = [_placed(q, y, lengths, False), _placed(k, keys, lengths, True)]
    else:
        tables = {"cosines": cosines, "sines": sines, "positions": None, "lengths": lengths}
        width = q.shape[2] // heads
        turned = [_turned(q, y, tables, width, False), _turned(k, keys, tables, width, True)]
    return [*turned, _placed(v, values, lengths, True)], y


def rotary_cache(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    heads: int,
    cosines: Tensor | None = None,
    sines: Tensor | None = None,
) -> Tensor:
    """q turned, k turned and v into their caches; arguments as pyengine.ops.rotary_cache's.

    q, k, v: float32 | bfloat16 | float16, on a GPU; copied if not contiguous.  Every row must have
    room for the new tokens: pyengine.ops looks.
    """
    launches, y = plan_rotary_cache(q, k, v, keys, values, lengths, heads, cosines, sines)
    for launch in launches:
        launch.run()
    return y
