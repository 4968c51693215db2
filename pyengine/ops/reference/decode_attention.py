"""Specification of decode_attention.  Vaswani et al. 2017, arXiv:1706.03762."""

import torch
from torch import Tensor


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
    """softmax(q k^T * scale) v, where row i of picture n sees the first lengths[n] + i + 1 keys.

    q: [N, L, heads * D]; keys, values: [N, most, kv_heads * D]; lengths: [N].  slots: [N], which
    rows of keys and values [S, most, kv_heads * D] are the N, in that order.  Head h looks at key
    head h * kv_heads // heads (Ainslie et al. 2023, arXiv:2305.13245).  scale: D ** -0.5 when None.
    Returns q's shape and dtype; softmax in float32.
    """
    n, count, width = q.shape
    if slots is not None:
        keys, values = keys[slots], values[slots]
    acc = torch.float64 if q.dtype == torch.float64 else torch.float32
    head = width // heads
    kv_heads = keys.shape[2] // head
    qh, kh, vh = (
        t.to(acc).unflatten(2, (h, head)).transpose(1, 2)
        for t, h in ((q, heads), (keys, kv_heads), (values, kv_heads))
    )
    seen = lengths[:, None, None, None] + torch.arange(count, device=q.device)[:, None] + 1
    place = torch.arange(keys.shape[1], device=q.device)
    unseen = place >= seen
    kh, vh = (t.repeat_interleave(heads // kv_heads, dim=1) for t in (kh, vh))
    scores = qh @ kh.transpose(-1, -2) * (scale if scale is not None else head**-0.5)
    weights = scores.masked_fill(unseen, float("-inf")).softmax(dim=-1)
    # What is not seen may be anything, also no number.
    vh = vh.masked_fill((place >= lengths[:, None] + count)[:, None, :, None], 0)
    y: Tensor = (weights @ vh).transpose(1, 2)
    return y.reshape(n, count, width).to(q.dtype)
