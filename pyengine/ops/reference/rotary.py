"""Specifications of rotary and rotary_cache.  Su et al. 2021, arXiv:2104.09864."""

import torch
from torch import Tensor


def rotary(x: Tensor, cosines: Tensor, sines: Tensor, positions: Tensor, heads: int) -> Tensor:
    """Each head's halves a, b turned by the row's position: a cos - b sin, b cos + a sin.

    x: [N, L, heads * D]; cosines, sines: [P, D / 2]; positions: [N, L] in 0..P-1.
    Computed in float32; returns x's shape and dtype.
    """
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    cos, sin = (table.to(acc)[positions][:, :, None] for table in (cosines, sines))
    a, b = x.to(acc).unflatten(2, (heads, -1)).chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(2).to(x.dtype)


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
    """q and k turned by their positions, lengths[n] + i; k and v written there into the cache.

    q: [N, L, heads * D]; k, v: [N, L, kv_heads * D]; keys, values: [N, most, kv_heads * D], which
    are written; lengths: [N].  Without cosines and sines ([P, D / 2]) nothing is turned.
    slots: [N], which rows of keys and values [S, most, kv_heads * D] are the N's.
    Returns q's shape and dtype.
    """
    count = q.shape[1]
    positions = lengths[:, None] + torch.arange(count, device=q.device)
    if cosines is not None and sines is not None:
        kv_heads = k.shape[2] * heads // q.shape[2]
        # A cache may be wider than what comes into it: rounded once.
        wide = torch.promote_types(k.dtype, keys.dtype)
        k = rotary(k.to(wide), cosines, sines, positions, kv_heads)
        q = rotary(q, cosines, sines, positions, heads)
    else:
        q = q.clone(memory_format=torch.contiguous_format)
    rows = (torch.arange(len(q), device=q.device) if slots is None else slots)[:, None]
    keys[rows, positions] = k.to(keys.dtype)
    values[rows, positions] = v.to(values.dtype)
    return q
