"""rotary positions, alone and on the way into a cache.  Su et al. 2021, arXiv:2104.09864."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _backend, _check, _memory, reference
from ._check import wrong
from ._core import DTYPES, address, core, float32
from ._op import Op

#: Positions whose angles are computed at a time: whole vectors, so that what a position gets does
#: not depend on how many others there are.
_BLOCK = 32
#: Sines that are computed at a time, a divisor of a block's: MKL shares out 128 of them.
_SERIAL = 32


def _check_heads(op: str, name: str, x: Tensor, heads: int) -> int:
    """The width of a head of x [N, L, heads * D]."""
    if x.dim() != 3:
        raise wrong(op, name, "3 dimensions [N, L, heads * D]", list(x.shape))
    if heads <= 0:
        raise wrong(op, "heads", "at least 1", heads)
    if x.shape[2] % heads or not x.shape[2]:
        raise wrong(op, name, f"a width divisible by {heads} heads", list(x.shape))
    return x.shape[2] // heads


def _check_tables(op: str, x: Tensor, width: int, cosines: Tensor, sines: Tensor) -> None:
    if width % 2:
        raise wrong(op, "heads", "heads of an even width", width)
    for name, table in (("cosines", cosines), ("sines", sines)):
        _check.shape(table, (cosines.shape[0], width // 2), op, name)
        _check.like(table, x, op, name, dtype=False)


def _check_whole_numbers(
    op: str, name: str, numbers: Tensor, shape: tuple[int, ...], x: Tensor
) -> None:
    _check.shape(numbers, shape, op, name)
    if numbers.dtype != torch.int64:
        raise wrong(op, name, "int64", numbers.dtype)
    if numbers.device != x.device:
        raise wrong(op, name, f"the device {x.device}", numbers.device)


# --- rotary ---------------------------------------------------------------------------------------


def _check_rotary(x: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor, heads: int) -> None:
    op = "rotary"
    width = _check_heads(op, "x", x, heads)
    _check.like(x, x, op, "x")
    _check_tables(op, x, width, cosines, sines)
    _check_whole_numbers(op, "positions", positions, x.shape[:2], x)


def _empty(x: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor, heads: int) -> Tensor:
    return x.new_empty(x.shape)


def _rows(x: Tensor) -> Tensor:
    """The tensor itself where its last dimension is contiguous, as in a slice; else a copy."""
    return x if x.stride(2) == 1 else x.contiguous()


def _outside(position: int, rows: int) -> Exception:
    return wrong("rotary", "positions", f"values from 0 to {rows - 1}", position)


def _cpu(x: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor, heads: int) -> Tensor:
    x, positions = _rows(x), positions.contiguous()
    cosines, sines = float32(cosines), float32(sines)
    y = _memory.empty(x.shape, x.dtype)
    args = core().RotaryArgs(
        x=address(x),
        y=address(y),
        x_picture=x.stride(0),
        x_row=x.stride(1),
        y_picture=y.stride(0),
        y_row=y.stride(1),
        cosines=address(cosines),
        sines=address(sines),
        table_rows=len(cosines),
        positions=address(positions),
        pictures=x.shape[0],
        rows=x.shape[1],
        heads=heads,
        width=x.shape[2] // heads,
        y_dtype=DTYPES[x.dtype],
    )
    bad = core().rotary(args, DTYPES[x.dtype], torch.get_num_threads())
    if bad >= 0:
        raise _outside(int(positions.view(-1)[bad]), len(cosines))
    return y


def _checked(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A backend that reads the tables itself, behind a look at the positions."""

    def run(x: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor, heads: int) -> Tensor:
        if positions.numel() and _check.visible(positions):
            low, high = (int(bound) for bound in positions.aminmax())
            if low < 0 or high >= len(cosines):
                raise _outside(low if low < 0 else high, len(cosines))
        return function(x, cosines, sines, positions, heads)

    return run


OP = Op(
    reference.rotary,
    check=_check_rotary,
    fake=_empty,
    table={
        "cpu": (_backend.cpu(_cpu), _backend.reference(_checked(reference.rotary))),
        "cuda": (
            _backend.triton("rotary", wrap=_checked),
            _backend.reference(_checked(reference.rotary)),
        ),
        _backend.ANY: (_backend.reference(_checked(reference.rotary)),),
    },
)


def rotary(x: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor, heads: int) -> Tensor:
    """Each head's halves a, b turned by the row's position: a cos - b sin, b cos + a sin.

    Su et al. 2021, arXiv:2104.09864.

    Args:
        x: [N, L, heads * D] float32 | bfloat16 | float16 | float64, D even; a view whose last
            dimension is contiguous, such as a slice of one fused projection, is read in place.
        cosines, sines: [P, D / 2] of any floating-point dtype (see rotary_table), in one dimension
            or two: a position is a row of the tables.
        positions: [N, L] int64 in 0..P-1.
        heads: their number.

    Returns:
        x's shape and dtype, contiguous; computed in float32 (float64 for float64).

    Raises:
        RequestError: for a position outside the tables, and for other shapes and dtypes.
    """
    return OP(x, cosines, sines, positions, heads)


# --- rotary_cache ---------------------------------------------------------------------------------


def check_cache(
    op: str,
    q: Tensor,
    width: int,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    slots: Tensor | None,
) -> int:
    """Checks a cache for q [N, L, heads * width]; returns how many heads the keys have."""
    _check.shape(keys, (q.shape[0] if slots is None else None, None, None), op, "keys")
    if slots is not None:
        _check_whole_numbers(op, "slots", slots, (q.shape[0],), q)
    kv_heads = keys.shape[2] // width
    if kv_heads * width != keys.shape[2] or not kv_heads:
        raise wrong(op, "keys", f"a width divisible by {width}, a head's", list(keys.shape))
    _check.shape(values, tuple(keys.shape), op, "values")
    for name, cache in (("keys", keys), ("values", values)):
        _check.like(cache, q, op, name, dtype=False)
        if cache.stride(2) != 1 or cache.dtype != keys.dtype:
            raise wrong(op, name, "the keys' dtype, the last dimension contiguous", cache.dtype)
    if keys.dtype != q.dtype and (keys.dtype not in DTYPES or q.dtype not in DTYPES):
        raise wrong(op, "keys", f"q's dtype {q.dtype} or one of at most 32 bits", keys.dtype)
    _check_whole_numbers(op, "lengths", lengths, (q.shape[0],), q)
    return kv_heads


def refused(
    op: str, lengths: Tensor, slots: Tensor | None, keys: Tensor, row: int, count: int, most: int
) -> Exception:
    """The error for a row whose slot is not its own or whose new tokens do not fit."""
    if slots is not None:
        slot = int(slots[row])
        if not 0 <= slot < len(keys):
            return wrong(op, "slots", f"0 to {len(keys) - 1}", slot)
        if slot in slots[:row].tolist():
            return wrong(op, "slots", "another slot for every row", f"{slot} twice")
    return wrong(
        op,
        "lengths",
        f"0 to {most - count} where {count} tokens come into a cache of {most}",
        f"{int(lengths[row])} for row {row}",
    )


def _check_rotary_cache(
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
) -> None:
    op = "rotary_cache"
    width = _check_heads(op, "q", q, heads)
    _check.like(q, q, op, "q")
    kv_heads = check_cache(op, q, width, keys, values, lengths, slots)
    for name, part in (("k", k), ("v", v)):
        _check.shape(part, (*q.shape[:2], kv_heads * width), op, name)
        _check.like(part, q, op, name)
    if (cosines is None) != (sines is None):
        raise wrong(op, "sines", "both cosines and sines or neither", "one")
    if cosines is not None and sines is not None:
        _check_tables(op, q, width, cosines, sines)


def _empty_cache(
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
    return q.new_empty(q.shape)


def _places(keys: Tensor, cosines: Tensor | None) -> int:
    """How many tokens a row may have."""
    return keys.shape[1] if cosines is None else min(keys.shape[1], len(cosines))


def contiguous(slots: Tensor | None) -> Tensor | None:
    return None if slots is None else slots.contiguous()


def _cpu_cache(
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
    slots = contiguous(slots)
    q, k, v, lengths = _rows(q), _rows(k), _rows(v), lengths.contiguous()
    if cosines is not None and sines is not None:
        cosines, sines = float32(cosines), float32(sines)
    y = _memory.empty(q.shape, q.dtype)
    n, count, width = q.shape
    head = width // heads
    (q_picture, q_row, _), (k_picture, k_row, _), (v_picture, v_row, _) = (
        t.stride() for t in (q, k, v)
    )
    args = core().RotaryCacheArgs(
        q=address(q),
        k=address(k),
        v=address(v),
        y=address(y),
        k_cache=address(keys),
        v_cache=address(values),
        q_picture=q_picture,
        q_row=q_row,
        k_picture=k_picture,
        k_row=k_row,
        v_picture=v_picture,
        v_row=v_row,
        k_cache_picture=keys.stride(0),
        k_cache_row=keys.stride(1),
        v_cache_picture=values.stride(0),
        v_cache_row=values.stride(1),
        cosines=address(cosines),
        sines=address(sines),
        table_rows=0 if cosines is None else len(cosines),
        lengths=address(lengths),
        slots=address(slots),
        pictures=n,
        rows=count,
        cache_rows=len(keys),
        most=keys.shape[1],
        heads=heads,
        kv_heads=keys.shape[2] // head,
        width=head,
        dtype=DTYPES[q.dtype],
        cache_dtype=DTYPES[keys.dtype],
    )
    bad = core().rotary_cache(args, torch.get_num_threads())
    if bad >= 0:
        places = _places(keys, cosines)
        raise refused("rotary_cache", lengths, slots, keys, bad, count, places)
    return y


def _room_checked(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A backend that writes the cache itself, behind a look at the lengths and slots."""

    def run(
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
        most = _places(keys, cosines)
        check_room("rotary_cache", lengths, slots, keys, q.shape[1], most)
        return function(q, k, v, keys, values, lengths, heads, cosines, sines, slots)

    return run


def check_room(
    op: str, lengths: Tensor, slots: Tensor | None, keys: Tensor, count: int, most: int
) -> None:
    """Raises RequestError unless every row has a slot of its own and `count` more tokens fit."""
    if not _check.visible(lengths):
        return
    bad = (lengths < 0) | (lengths > most - count)
    if slots is not None:
        same = slots[:, None] == slots
        bad |= (slots < 0) | (slots >= len(keys)) | same.tril(-1).any(dim=1)
    if bad.any():
        raise refused(op, lengths, slots, keys, int(bad.nonzero()[0]), count, most)


_CACHE_REFERENCE = _backend.reference(_room_checked(reference.rotary_cache))

ROTARY_CACHE = Op(
    reference.rotary_cache,
    check=_check_rotary_cache,
    fake=_empty_cache,
    table={
        "cpu": (_backend.cpu(_cpu_cache), _CACHE_REFERENCE),
        "cuda": (
            _backend.triton("rotary_cache", module="rotary", wrap=_room_checked),
            _CACHE_REFERENCE,
        ),
        _backend.ANY: (_CACHE_REFERENCE,),
    },
    module="rotary",
    writes=("keys", "values"),
)


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
    """New tokens into a cache: q and k turned by their positions, k and v written there.

    Su et al. 2021, arXiv:2104.09864.

    Args:
        q: [N, L, heads * D] float32 | bfloat16 | float16 | float64.
        k, v: [N, L, kv_heads * D] in q's dtype; views of all three whose last dimension is
            contiguous, such as slices of one fused projection, are read in place.
        keys, values: [N, most, kv_heads * D] of one dtype, which is q's or another of at most 32
            bits; positions lengths[n] to lengths[n] + L - 1 are written, rounded once. With slots
            [S, most, kv_heads * D] for any S.
        lengths: [N] int64, how many tokens each row has; the new ones' positions follow.
        heads: of q, a multiple of kv_heads.
        cosines, sines: [P, D / 2] (see rotary_table), or None: nothing is turned.
        slots: [N] int64, all different: the row of the cache that belongs to each of the batch, so
            that sequences join and leave a batch without a copy; None: row n's is n.

    Returns:
        q turned, its shape and dtype, contiguous; the bits are `rotary`'s.

    Raises:
        RequestError: before anything is written, where a row has no room for L more tokens or no
            slot of its own, and for other shapes and dtypes.
    """
    return ROTARY_CACHE(q, k, v, keys, values, lengths, heads, cosines, sines, slots)


# --- tables ---------------------------------------------------------------------------------------


def rotary_table(positions: Tensor, width: int, theta: float = 1e4) -> tuple[Tensor, Tensor]:
    """(cosines, sines) for heads of `width` channels, [P, width // 2] float32 each.

    Args:
        positions: [P], or [P, 2] for places in a picture: then the first half of the pairs turns by
            the row and the second by the column (width divisible by 4), as LlamaGen's (Sun et al.
            2024, arXiv:2406.06525).
        width: channels of a head, even.
        theta: the base of the frequencies.

    Returns:
        Two [P, width // 2] float32; a position's bits do not depend on what stands beside it.
    """
    axes = positions.shape[1] if positions.dim() == 2 else 1
    if positions.dim() not in (1, 2) or axes > 2 or width <= 0 or width % (2 * axes):
        raise wrong(
            "rotary_table",
            "positions",
            f"[P], or [P, 2] and a multiple of 4, for {width} channels",
            list(positions.shape),
        )
    own = width // axes
    steps = torch.arange(0, own, 2, dtype=torch.float32, device=positions.device) / own
    angle = 1.0 / theta**steps
    places = positions.float().reshape(-1, axes)
    count = len(places)
    places = F.pad(places, (0, 0, 0, -count % _BLOCK))
    # In pieces: torch and MKL would wake threads for the whole, which beside other busy processes
    # wait for each other.
    cosines, sines = (angle.new_empty(len(places), width // 2) for _ in range(2))
    for begin in range(0, len(places), _BLOCK):
        block = slice(begin, begin + _BLOCK)
        pieces = (places[block, :, None] * angle).flatten().split(_SERIAL)
        cosines[block].view(-1).copy_(torch.cat([piece.cos() for piece in pieces]))
        sines[block].view(-1).copy_(torch.cat([piece.sin() for piece in pieces]))
    return cosines[:count], sines[:count]
