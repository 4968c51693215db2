"""decode_attention in Triton: a program per new token and head, online softmax over the cache.

Vaswani et al. 2017, arXiv:1706.03762; Milakov & Gimelshein 2018, arXiv:1805.02867.
"""

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
    unit_of,
)

#: Bytes of keys, and of values, that a program holds, and the most keys: 32 registers for each of
#: 256 threads.
TILE = 32 * 1024
MOST_KEYS = 256


# Blocks of keys begin at multiples of KEYS: a row's bits depend on what it sees, not on the cache.
@triton.jit(do_not_specialize=["rows", "q_picture", "q_row", "k_picture", "v_picture"])
def _decode_attention(
    q,
    k,
    v,
    lengths,
    slots,
    y,
    rows,
    q_picture,
    q_row,
    k_picture,
    k_row,
    v_picture,
    v_row,
    width,
    group,
    scale,
    UNIT: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    item = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    picture = item // rows
    row = item % rows
    c = tl.arange(0, WIDTH)
    inside = c < width
    query = tl.load(
        q + picture * q_picture + row * q_row + head * width + c, mask=inside, other=0.0
    )
    query = query.to(tl.float32) * (scale * 1.4426950408889634)
    seen = tl.load(lengths + picture) + row + 1
    slot = picture
    if slots is not None:
        slot = tl.load(slots + picture)
    k += slot * k_picture * UNIT + (head // group) * width
    v += slot * v_picture * UNIT + (head // group) * width
    line = tl.arange(0, KEYS)
    most = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    result = tl.zeros([WIDTH], tl.float32)
    first = seen * 0
    while first < seen:
        place = first + line
        mask = (place < seen)[:, None] & inside[None, :]
        keys = tl.load(k + place[:, None] * k_row + c[None, :], mask=mask, other=0.0)
        values = tl.load(v + place[:, None] * v_row + c[None, :], mask=mask, other=0.0)
        scores = tl.sum(keys.to(tl.float32) * query[None, :], axis=1)
        scores = tl.where(place < seen, scores, float("-inf"))
        now = tl.maximum(most, tl.max(scores, axis=0))
        base = tl.where(now == float("-inf"), 0.0, now)
        factor = tl.exp2(most - base)
        weights = tl.exp2(scores - base)
        result = result * factor + tl.sum(values.to(tl.float32) * weights[:, None], axis=0)
        total = total * factor + tl.sum(weights, axis=0)
        most = now
        first += KEYS
    target = y + (item * tl.num_programs(1) + head) * width + c
    tl.store(target, (result / total).to(y.dtype.element_ty), mask=inside)


def plan(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    heads: int,
    *,
    scale: float | None = None,
    slots: Tensor | None = None,
) -> tuple[list[Launch], Tensor]:
    """The launches that compute decode_attention(...), and the tensor they fill."""
    [y] = prepare("decode_attention", q.new_empty(q.shape))
    n, rows, channels = q.shape
    width = channels // heads
    unit = unit_of(keys, values)
    q, keys, values = readable_rows(q), readable_rows(keys, unit), readable_rows(values, unit)
    unit = unit_of(keys, values)
    columns = power_of_2(width)
    args = {"q": q, "k": keys, "v": values, "lengths": readable(lengths)}
    args |= {"slots": None if slots is None else readable(slots), "y": y, "rows": rows}
    args |= {"q_picture": picture_step(q), "q_row": row_step(q)}
    args |= {"k_picture": picture_step(keys) // unit, "k_row": row_step(keys)}
    args |= {"v_picture": picture_step(values) // unit, "v_row": row_step(values)}
    args |= {"width": width, "group": heads * width // keys.shape[2]}
    args["scale"] = float(width**-0.5 if scale is None else scale)
    block = min(MOST_KEYS, max(TILE // (columns * keys.itemsize), 1))
    constants = {"UNIT": unit, "KEYS": block, "WIDTH": columns}
    return [Launch(_decode_attention, (n * rows, heads), args, constants, num_warps=8)], y


def decode_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    heads: int,
    *,
    scale: float | None = None,
    slots: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T * scale) v over a cache; arguments as pyengine.ops.decode_attention's.

    float32 | bfloat16 | float16, on a GPU; views whose last dimension is contiguous are read in
    place.  The rows must lie within the cache: pyengine.ops looks.
    """
    launches, y = plan(q, keys, values, lengths, heads, scale=scale, slots=slots)
    for launch in launches:
        launch.run()
    return y
