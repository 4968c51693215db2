"""decode_attention in Triton: a program per new token and head, online softmax over the cache.

Vaswani et al. 2017, arXiv:1706.03762; Milakov & Gimelshein 2018, arXiv:1805.02867.
"""

import triton
import triton.language as tl
from torch import Tensor

from ._launch import Launch, power_of_2, prepare, readable

# Elements of keys, and of values, that a program holds: 32 registers for each of 128 threads.
TILE = 4096
MOST_KEYS = 64


# Blocks of keys begin at multiples of KEYS: a row's bits depend on what it sees, not on the cache.
@triton.jit(do_not_specialize=["rows", "q_picture", "q_row", "k_picture", "v_picture"])
def _decode_attention(
    q, k, v, lengths, y, rows, q_picture, q_row, k_picture, k_row, v_picture, v_row, width, group,
    scale, KEYS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
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
    k += picture * k_picture + (head // group) * width
    v += picture * v_picture + (head // group) * width
    line = tl.arange(0, KEYS)
    most = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    result = tl.zeros([WIDTH], tl.float32)
    first = seen * 0
    while first < seen:
        place = first + line
        mask = (place < seen)[:, None] & inside[None, :]
        keys = tl.load(k + place[:, None] * k_row + c[None, :], mask=mask, other=0.0)
        scores = tl.sum(keys.to(tl.float32) * query[None, :], axis=1)
        scores = tl.where(place < seen, scores, float("-inf"))
        now = tl.maximum(most, tl.max(scores, axis=0))
        base = tl.where(now == float("-inf"), 0.0, now)
        factor = tl.exp2(most - base)
        weights = tl.exp2(scores - base)
        values = tl.load(v + place[:, None] * v_row + c[None, :], mask=mask, other=0.0)
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
) -> tuple[list[Launch], Tensor]:
    """The launches that compute decode_attention(...), and the tensor they fill."""
    q, keys, values = prepare("decode_attention", q, keys, values)
    n, rows, channels = q.shape
    width = channels // heads
    y = q.new_empty(q.shape)
    columns = power_of_2(width)
    args = {"q": q, "k": keys, "v": values, "lengths": readable(lengths), "y": y, "rows": rows}
    args |= {"q_picture": q.stride(0), "q_row": q.stride(1)}
    args |= {"k_picture": keys.stride(0), "k_row": keys.stride(1)}
    args |= {"v_picture": values.stride(0), "v_row": values.stride(1)}
    args |= {"width": width, "group": heads * width // keys.shape[2]}
    args["scale"] = float(width**-0.5 if scale is None else scale)
    constants = {"KEYS": min(MOST_KEYS, max(TILE // columns, 1)), "WIDTH": columns}
    return [Launch(_decode_attention, (n * rows, heads), args, constants)], y


def decode_attention(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    heads: int,
    *,
    scale: float | None = None,
) -> Tensor:
    """softmax(q k^T * scale) v over a cache; arguments as pyengine.ops.decode_attention's.

    float32 | bfloat16 | float16, on a GPU; copied if not contiguous.  The rows must lie within the
    cache: pyengine.ops looks.
    """
    launches, y = plan(q, keys, values, lengths, heads, scale=scale)
    for launch in launches:
        launch.run()
    return y
