"""attention in Triton: a program per block of queries and head, online softmax over blocks of keys.

Dao 2023, arXiv:2307.08691 (FlashAttention-2); Milakov & Gimelshein 2018, arXiv:1805.02867.

tl.dot takes powers of two only. A head's channels are taken as two of them side by side, the
largest that fits and one for the rest: 40 as 32 + 16, 80 as 64 + 16, 160 as 128 + 32.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyengine.errors import RequestError

from ._launch import (
    DTYPES,
    Launch,
    cdiv,
    picture_step,
    power_of_2,
    readable_rows,
    row_step,
    unit_of,
)

#: The widest head: its queries, keys, values and results fill the registers of 256 threads.
MAX_HEAD = 256
#: The narrowest operand of tl.dot.
LEAST = 16


@triton.jit
def _rows(
    pointer, line, step, there, FIRST: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr
):
    """COLUMNS channels of rows, from FIRST on; zeros where a row or a channel is not there."""
    column = FIRST + tl.arange(0, COLUMNS)
    mask = there[:, None] & (column < WIDTH)[None, :]
    return tl.load(pointer + line[:, None] * step + column[None, :], mask=mask, other=0.0)


@triton.jit
def _scores(
    a,
    a2,
    k,
    mask,
    row,
    start,
    k_row,
    mask_row,
    mask_key,
    scale,
    queries,
    keys,
    CAUSAL: tl.constexpr,
    MASK_ROWS: tl.constexpr,
    EDGE: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    PART: tl.constexpr,
    REST: tl.constexpr,
):
    """Of a block of queries, in parts a and a2, to a block of keys; -inf where a key is not seen.

    The fma stands also where nothing is added: a product that the compiler may join to what comes
    after it is not the one of which the greatest score was taken, and 1e30 may lie far above it.
    """
    line = tl.arange(0, KEYS)
    key = start + line
    there = key < keys if EDGE else line >= 0
    b = _rows(k, line, k_row, there, 0, PART, WIDTH)
    scores = tl.dot(a, tl.trans(b), input_precision="ieee")
    if REST > 0:
        b = _rows(k, line, k_row, there, PART, REST, WIDTH)
        scores = tl.dot(a2, tl.trans(b), scores, input_precision="ieee")
    added = tl.zeros_like(scores)
    if MASK_ROWS:
        place = mask + row.to(tl.int64)[:, None] * mask_row + key[None, :] * mask_key
        inside = (row < queries)[:, None] & there[None, :]
        added += tl.load(place, mask=inside, other=0.0).to(tl.float32)
    elif mask is not None:
        added += tl.load(mask + key * mask_key, mask=there, other=0.0).to(tl.float32)[None, :]
    if a.dtype == tl.float32:  # whose queries were scaled
        scores += added
    else:
        scores = tl.fma(scores, tl.zeros_like(scores) + scale, added)
    if EDGE:
        seen = there[None, :]
        if CAUSAL:
            seen = seen & (key[None, :] <= row[:, None])
        scores = tl.where(seen, scores, float("-inf"))
    return scores


@triton.jit
def _block(
    most,
    total,
    result,
    result2,
    a,
    a2,
    k,
    v,
    mask,
    row,
    start,
    k_row,
    v_row,
    mask_row,
    mask_key,
    scale,
    queries,
    keys,
    CAUSAL: tl.constexpr,
    MASK_ROWS: tl.constexpr,
    EDGE: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    PART: tl.constexpr,
    REST: tl.constexpr,
    V_WIDTH: tl.constexpr,
    V_PART: tl.constexpr,
    V_REST: tl.constexpr,
):
    """What the keys before have left, and a block more: the greatest score, the sum of the weights
    and the weighted values."""
    scores = _scores(
        a,
        a2,
        k,
        mask,
        row,
        start,
        k_row,
        mask_row,
        mask_key,
        scale,
        queries,
        keys,
        CAUSAL,
        MASK_ROWS,
        EDGE,
        KEYS,
        WIDTH,
        PART,
        REST,
    )
    now = tl.maximum(most, tl.max(scores, axis=1))
    # Where no key was seen yet, -inf - -inf would be NaN.
    base = tl.where(now == float("-inf"), 0.0, now)
    if mask is None:  # then log2(e) is in the scale
        weights = tl.exp2(scores - base[:, None])
        factor = tl.exp2(most - base)
    else:
        weights = tl.exp(scores - base[:, None])
        factor = tl.exp(most - base)
    total = total * factor + tl.sum(weights, axis=1)
    line = tl.arange(0, KEYS)
    there = start + line < keys if EDGE else line >= 0
    c = _rows(v, line, v_row, there, 0, V_PART, V_WIDTH)
    weights = weights.to(c.dtype)
    result = tl.dot(weights, c, result * factor[:, None], input_precision="ieee")
    if V_REST > 0:
        c = _rows(v, line, v_row, there, V_PART, V_REST, V_WIDTH)
        result2 = tl.dot(weights, c, result2 * factor[:, None], input_precision="ieee")
    return now, total, result, result2


@triton.jit(do_not_specialize=["q_picture", "k_picture", "v_picture", "mask_picture"])
def _attention(
    q,
    k,
    v,
    mask,
    y,
    queries,
    keys,
    q_picture,
    q_row,
    k_picture,
    k_row,
    v_picture,
    v_row,
    y_row,
    mask_picture,
    mask_head,
    mask_row,
    mask_key,
    scale,
    CAUSAL: tl.constexpr,
    MASK_ROWS: tl.constexpr,
    UNIT: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    PART: tl.constexpr,
    REST: tl.constexpr,
    V_WIDTH: tl.constexpr,
    V_PART: tl.constexpr,
    V_REST: tl.constexpr,
):
    first = tl.program_id(0) * QUERIES
    head = tl.program_id(1)
    picture = tl.program_id(2).to(tl.int64)
    q += picture * q_picture * UNIT + first.to(tl.int64) * q_row + head * WIDTH
    k += picture * k_picture * UNIT + head * WIDTH
    v += picture * v_picture * UNIT + head * V_WIDTH
    if mask is not None:
        mask += picture * mask_picture + head.to(tl.int64) * mask_head
    line = tl.arange(0, QUERIES)
    row = first + line
    there = row < queries
    a = _rows(q, line, q_row, there, 0, PART, WIDTH)
    a2 = a
    if REST > 0:
        a2 = _rows(q, line, q_row, there, PART, REST, WIDTH)
    if q.dtype.element_ty == tl.float32:
        a *= scale
        a2 *= scale
    most = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    result = tl.zeros([QUERIES, V_PART], tl.float32)
    result2 = tl.zeros([QUERIES, V_REST if V_REST > 0 else 1], tl.float32)

    # First the blocks of which every query sees every key, then those at the edge. Which is which
    # does not touch a bit: a key that is not seen has weight 0.
    end = keys
    full = keys
    if CAUSAL:
        end = tl.minimum(keys, first + QUERIES)
        full = tl.minimum(keys, first + 1)
    full = full // KEYS * KEYS
    for start in range(0, full, KEYS):
        most, total, result, result2 = _block(
            most,
            total,
            result,
            result2,
            a,
            a2,
            k,
            v,
            mask,
            row,
            start,
            k_row,
            v_row,
            mask_row,
            mask_key,
            scale,
            queries,
            keys,
            CAUSAL,
            MASK_ROWS,
            False,
            KEYS,
            WIDTH,
            PART,
            REST,
            V_WIDTH,
            V_PART,
            V_REST,
        )
        k += KEYS * k_row
        v += KEYS * v_row
    for start in range(full, end, KEYS):
        most, total, result, result2 = _block(
            most,
            total,
            result,
            result2,
            a,
            a2,
            k,
            v,
            mask,
            row,
            start,
            k_row,
            v_row,
            mask_row,
            mask_key,
            scale,
            queries,
            keys,
            CAUSAL,
            MASK_ROWS,
            True,
            KEYS,
            WIDTH,
            PART,
            REST,
            V_WIDTH,
            V_PART,
            V_REST,
        )
        k += KEYS * k_row
        v += KEYS * v_row

    # A row that saw no key is 0 / 0.
    y += (picture * queries + first) * y_row + head * V_WIDTH
    column = tl.arange(0, V_PART)
    target = y + line[:, None] * y_row + column[None, :]
    inside = there[:, None] & (column < V_WIDTH)[None, :]
    tl.store(target, (result / total[:, None]).to(y.dtype.element_ty), mask=inside)
    if V_REST > 0:
        column = V_PART + tl.arange(0, V_REST)
        target = y + line[:, None] * y_row + column[None, :]
        inside = there[:, None] & (column < V_WIDTH)[None, :]
        tl.store(target, (result2 / total[:, None]).to(y.dtype.element_ty), mask=inside)


def parts(width: int) -> tuple[int, int]:
    """A head's width as two powers of two, of which the second may be 0: (32, 16) for 40."""
    if width <= LEAST:
        return LEAST, 0
    first = power_of_2(width + 1) // 2
    rest = width - first
    return first, max(power_of_2(rest), LEAST) if rest else 0


def _blocks(width: int, dtype: torch.dtype, mask: str) -> tuple[int, int, int]:
    """Queries and keys of a block, and how many blocks of keys are on their way at once.

    width: of the wider of both parted heads.  mask: "none", "keys" (the same for every query) or
    "rows".  As large as compiles for sm_80 without spilling from 255 registers, and into the 99 KB
    of shared memory that an sm_86 or sm_89 chip has.
    """
    if dtype == torch.float32:
        return (32, 32, 2) if mask == "none" and width <= 96 else (16, 16, 2)
    if width > 160:
        return 32, 32, 2
    if mask == "rows":
        return 64, 32 if width <= 64 else 16, 2
    if width <= 64 and mask == "none":
        return 128, 64, 3
    return 64, 64 if width <= 96 else 32, 2


def _mask_steps(mask: Tensor | None) -> dict[str, int]:
    names = ("mask_picture", "mask_head", "mask_row", "mask_key")
    if mask is None:
        return dict.fromkeys(names, 0)
    steps = zip(names, mask.shape, mask.stride(), strict=True)
    return {name: 0 if size == 1 else step for name, size, step in steps}


def plan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> tuple[list[Launch], Tensor]:
    """The launches that compute attention(...), and the tensor they fill."""
    if q.dtype not in DTYPES:
        raise RequestError(f"attention: q: expected float32, bfloat16 or float16, got {q.dtype}")
    width, v_width = q.shape[2] // heads, v.shape[2] // heads
    if max(width, v_width) > MAX_HEAD:
        found = max(width, v_width)
        raise RequestError(
            f"attention: q: expected heads of at most {MAX_HEAD} channels, got {found}"
        )
    unit = unit_of(q, k, v)
    q, k, v = (readable_rows(t, unit) for t in (q, k, v))
    unit = unit_of(q, k, v)
    if mask is not None:
        mask = mask if mask.dtype in DTYPES else mask.float()
        mask = mask.reshape((1,) * (4 - mask.dim()) + mask.shape)
        mask = mask if mask.data_ptr() % 16 == 0 else mask.clone()
    n, queries, _ = q.shape
    y = q.new_empty(n, queries, v.shape[2])
    scale = width**-0.5 if scale is None else scale
    (part, rest), (v_part, v_rest) = parts(width), parts(v_width)
    args = {"q": q, "k": k, "v": v, "mask": mask, "y": y, "queries": queries, "keys": k.shape[1]}
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        args[f"{name}_picture"] = picture_step(tensor) // unit
        args[f"{name}_row"] = row_step(tensor)
    args |= {"y_row": v.shape[2], **_mask_steps(mask)}
    # The lowest finite mask times log2(e) would be infinite.
    args["scale"] = float(scale * (math.log2(math.e) if mask is None else 1.0))
    kind = "none" if mask is None else "rows" if args["mask_row"] else "keys"
    block, block_keys, stages = _blocks(max(part + rest, v_part + v_rest), q.dtype, kind)
    constants = {"CAUSAL": causal, "MASK_ROWS": kind == "rows", "UNIT": unit}
    constants |= {"QUERIES": block, "KEYS": block_keys}
    constants |= {"WIDTH": width, "PART": part, "REST": rest}
    constants |= {"V_WIDTH": v_width, "V_PART": v_part, "V_REST": v_rest}
    grid = (cdiv(queries, block), heads, n)
    return [Launch(_attention, grid, args, constants, num_stages=stages)], y


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(q k^T * scale + mask) v; arguments as pyengine.ops.attention's.

    float32 | bfloat16 | float16, on a GPU, heads of at most 256 channels. Views whose last
    dimension is contiguous are read in place.
    """
    launches, y = plan(q, k, v, heads, mask=mask, causal=causal, scale=scale)
    for launch in launches:
        launch.run()
    return y
