"""rotary and rotary_cache in Triton: a launch each.  Su et al. 2021, arXiv:2104.09864."""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ._launch import (
    Launch,
    picture_step,
    power_of_2,
    prepare,
    readable,
    readable_rows,
    row_step,
)


@triton.jit
def _turn(source, target, cosines, sines, position, width, WIDTH: tl.constexpr):
    """A head's halves, turned by the position, or the head as it is where there are no tables."""
    if cosines is None:
        c = tl.arange(0, WIDTH)
        x = tl.load(source + c, mask=c < width, other=0.0).to(tl.float32)
        tl.store(target + c, x.to(target.dtype.element_ty), mask=c < width)
    else:
        half = width // 2
        c = tl.arange(0, WIDTH // 2)
        inside = c < half
        a = tl.load(source + c, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(source + half + c, mask=inside, other=0.0).to(tl.float32)
        cosine = tl.load(cosines + position * half + c, mask=inside, other=0.0).to(tl.float32)
        sine = tl.load(sines + position * half + c, mask=inside, other=0.0).to(tl.float32)
        turned = a * cosine - b * sine
        tl.store(target + c, turned.to(target.dtype.element_ty), mask=inside)
        turned = b * cosine + a * sine
        tl.store(target + half + c, turned.to(target.dtype.element_ty), mask=inside)


# A program per row and head. Nothing hangs on how many rows or pictures there are.
@triton.jit
def _rotary(x, y, cosines, sines, positions, row_step, width, WIDTH: tl.constexpr):
    item = tl.program_id(0).to(tl.int64)
    place = item * row_step + tl.program_id(1) * width
    position = tl.load(positions + item)
    _turn(x + place, y + place, cosines, sines, position, width, WIDTH)


# First the heads of q, then those of the keys, then those of the values.
@triton.jit(
    do_not_specialize=[
        *("rows", "q_picture", "k_picture", "v_picture", "keys_picture", "values_picture")
    ]
)
def _rotary_cache(
    q, k, v, keys, values, y, cosines, sines, lengths, slots, rows, heads, kv_heads,
    q_picture, q_row, k_picture, k_row, v_picture, v_row,
    keys_picture, keys_row, values_picture, values_row, width, WIDTH: tl.constexpr,
):  # fmt: skip
    item = tl.program_id(0).to(tl.int64)
    picture = item // rows
    row = item % rows
    position = tl.load(lengths + picture) + row
    slot = picture
    if slots is not None:
        slot = tl.load(slots + picture)
    head = tl.program_id(1)
    if head < heads:
        source = q + picture * q_picture + row * q_row + head * width
        target = y + (item * heads + head) * width
        _turn(source, target, cosines, sines, position, width, WIDTH)
    elif head < heads + kv_heads:
        first = (head - heads) * width
        source = k + picture * k_picture + row * k_row + first
        target = keys + slot * keys_picture + position * keys_row + first
        _turn(source, target, cosines, sines, position, width, WIDTH)
    else:
        first = (head - heads - kv_heads) * width
        source = v + picture * v_picture + row * v_row + first
        target = values + slot * values_picture + position * values_row + first
        _turn(source, target, None, None, position, width, WIDTH)


def _sizes(width: int) -> dict[str, Any]:
    """For heads of that width: as many warps as half of one has channels for."""
    columns = max(power_of_2(width), 2)
    return {"constants": {"WIDTH": columns}, "num_warps": min(max(columns // 64, 1), 4)}


def plan(
    x: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor, heads: int
) -> tuple[list[Launch], Tensor]:
    """The launches that compute rotary(...), and the tensor they fill."""
    x, cosines, sines = prepare("rotary", x, cosines, sines)
    y = x.new_empty(x.shape)
    width = x.shape[2] // heads
    args = {"x": x, "y": y, "cosines": cosines, "sines": sines}
    args |= {"positions": readable(positions), "row_step": x.shape[2], "width": width}
    grid = (x.shape[0] * x.shape[1], heads)
    return [Launch(_rotary, grid, args, **_sizes(width))], y


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
    slots: Tensor | None = None,
) -> tuple[list[Launch], Tensor]:
    """The launches that compute rotary_cache(...), and what they fill beside the cache."""
    y, cosines, sines = prepare("rotary_cache", q.new_empty(q.shape), cosines, sines)
    q, k, v = (readable_rows(t) for t in (q, k, v))
    width = q.shape[2] // heads
    kv_heads = k.shape[2] // width
    args = {"q": q, "k": k, "v": v, "keys": keys, "values": values, "y": y}
    args |= {"cosines": cosines, "sines": sines, "lengths": readable(lengths)}
    args["slots"] = None if slots is None else readable(slots)
    args |= {"rows": q.shape[1], "heads": heads, "kv_heads": kv_heads}
    for name in ("q", "k", "v", "keys", "values"):
        args[f"{name}_picture"], args[f"{name}_row"] = (
            picture_step(args[name]),
            row_step(args[name]),
        )
    args["width"] = width
    grid = (q.shape[0] * q.shape[1], heads + 2 * kv_heads)
    return [Launch(_rotary_cache, grid, args, **_sizes(width))], y


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
    slots: Tensor | None = None,
) -> Tensor:
    """q turned, k turned and v into their caches; arguments as pyengine.ops.rotary_cache's.

    q, k, v: float32 | bfloat16 | float16, on a GPU; views whose last dimension is contiguous are
    read in place.  Every row must have room for the new tokens: pyengine.ops looks.
    """
    launches, y = plan_rotary_cache(q, k, v, keys, values, lengths, heads, cosines, sines, slots)
    for launch in launches:
        launch.run()
    return y
