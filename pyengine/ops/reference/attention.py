"""Specification of attention over packed heads.  Vaswani et al. 2017, arXiv:1706.03762."""

import torch
from torch import Tensor


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
    """softmax(q k^T * scale + mask) v, the heads lying side by side in the last dimension.

    q: [N, Lq, heads * D]; k: [N, Lk, heads * D]; v: [N, Lk, heads * Dv].
    mask: additive, broadcastable to [N, heads, Lq, Lk], or None.  causal: row i sees keys 0..i.
    scale: D ** -0.5 when None.  Returns [N, Lq, heads * Dv] in q's dtype; softmax in float32.
    """
    n, lq, width = q.shape
    acc = torch.float64 if q.dtype == torch.float64 else torch.float32
    qh, kh, vh = (
        t.to(acc).reshape(n, t.shape[1], heads, t.shape[2] // heads).transpose(1, 2)
        for t in (q, k, v)
    )
    scores = qh @ kh.transpose(-1, -2) * (scale if scale is not None else (width // heads) ** -0.5)
    if mask is not None:
        scores = scores + mask.to(acc)
    if causal:
        hidden = torch.ones(lq, k.shape[1], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(hidden, float("-inf"))
    y = scores.softmax(dim=-1) @ vh
    return y.transpose(1, 2).reshape(n, lq, -1).to(q.dtype)
