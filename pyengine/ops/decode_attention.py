"""decode_attention: new tokens to a cache.  Vaswani et al. 2017, arXiv:1706.03762."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import _backend, _check, _memory, reference
from ._check import wrong
from ._core import DTYPES, address, core
from ._op import Op
from .rotary import _check_heads, _rows, check_cache, check_room, contiguous, refused

_NAME = "decode_attention"


def _check_arguments(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    heads: int,
    *,
    scale: float | None = None,
    slots: Tensor | None = None,
) -> None:
    width = _check_heads(_NAME, "q", q, heads)
    _check.like(q, q, _NAME, "q")
    kv_heads = check_cache(_NAME, q, width, keys, values, lengths, slots)
    if heads % kv_heads:
        raise wrong(_NAME, "heads", f"a multiple of the keys' {kv_heads}", heads)


def _empty(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    heads: int,
    *,
    scale: float | None = None,
    slots: Tensor | None = None,
) -> Tensor:
    return q.new_empty(q.shape)


def _cpu(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    heads: int,
    *,
    scale: float | None = None,
    slots: Tensor | None = None,
) -> Tensor:
    q, lengths, slots = _rows(q), lengths.contiguous(), contiguous(slots)
    n, count, width = q.shape
    head = width // heads
    y = _memory.empty(q.shape, q.dtype)
    (q_picture, q_row), (k_picture, k_row), (v_picture, v_row) = (
        t.stride()[:2] for t in (q, keys, values)
    )
    args = core().DecodeAttentionArgs(
        q=address(q),
        k=address(keys),
        v=address(values),
        y=address(y),
        q_picture=q_picture,
        q_row=q_row,
        k_picture=k_picture,
        k_row=k_row,
        v_picture=v_picture,
        v_row=v_row,
        lengths=address(lengths),
        slots=address(slots),
        cache_rows=len(keys),
        pictures=n,
        rows=count,
        heads=heads,
        kv_heads=keys.shape[2] // head,
        width=head,
        most=keys.shape[1],
        scale=head**-0.5 if scale is None else scale,
        dtype=DTYPES[q.dtype],
        cache_dtype=DTYPES[keys.dtype],
    )
    bad = core().decode_attention(args, torch.get_num_threads())
    if bad >= 0:
        raise refused(_NAME, lengths, slots, keys, bad, count, keys.shape[1])
    return y


def _checked(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A backend that reads the cache itself, behind a look at the lengths and slots."""

    def run(
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        lengths: Tensor,
        heads: int,
        *,
        scale: float | None = None,
        slots: Tensor | None = None,
    ) -> Tensor:
        check_room(_NAME, lengths, slots, keys, q.shape[1], keys.shape[1])
        return function(q, keys, values, lengths, heads, scale=scale, slots=slots)

    return run


_REFERENCE = _backend.reference(_checked(reference.decode_attention))

OP = Op(
    reference.decode_attention,
    check=_check_arguments,
    fake=_empty,
    table={
        "cpu": (_backend.cpu(_cpu), _REFERENCE),
        "cuda": (_backend.triton(_NAME, wrap=_checked), _REFERENCE),
        _backend.ANY: (_REFERENCE,),
    },
)


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
    """softmax(q k^T * scale) v over a cache: row i of n sees its first lengths[n] + i + 1 keys.

    Vaswani et al. 2017, arXiv:1706.03762.

    Args:
        q: [N, L, heads * D] float32 | bfloat16 | float16 | float64, L new tokens of every row; a
            view whose last dimension is contiguous is read in place.
        keys, values: [N, most, kv_heads * D] of one dtype, q's or another of at most 32 bits, where
            rotary_cache has written the new tokens' own; views with contiguous last dimension. With
            slots [S, most, kv_heads * D].
        lengths: [N] int64, how many tokens each row had before the new ones.
        heads: of q, a multiple of the keys' kv_heads: head h looks at key head h * kv_heads //
            heads (grouped queries, Ainslie et al. 2023, arXiv:2305.13245).
        scale: D ** -0.5 when None.
        slots: [N] int64, all different: the row of the cache that belongs to each of the batch;
            None: row n's is n.

    Returns:
        q's shape and dtype, contiguous. A token's bits depend neither on other rows, nor on `most`,
        nor on how many new tokens come with it.

    Raises:
        RequestError: where lengths[n] + L is more than `most`, where a row has no slot of its own,
            and for other shapes and dtypes.
    """
    return OP(q, keys, values, lengths, heads, scale=scale, slots=slots)
