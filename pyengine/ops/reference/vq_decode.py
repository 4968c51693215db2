"""Specification of vq_decode: from codebook indices back to vectors."""

import torch
from torch import Tensor


def vq_decode(
    indices: Tensor,
    codebook: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    residual: bool = False,
) -> Tensor:
    """The codebook's entries at the indices, and a 1x1 convolution of them.

    indices: [...] int64 for a codebook [K, d]; [..., G] for [G, K, d], whose entries lie side by
    side, or are added up with residual=True.  weight: [C, inputs], inputs = d or G d, the
    post-quantisation convolution; bias: [C].
    Returns [..., inputs], or [..., C], in the codebook's dtype, computed in float32 (float64 for
    float64).
    """
    acc = torch.float64 if codebook.dtype == torch.float64 else torch.float32
    if codebook.dim() == 2:
        y = codebook[indices].to(acc)
    else:
        parts = [book[indices[..., level]].to(acc) for level, book in enumerate(codebook)]
        y = sum(parts[1:], parts[0]) if residual else torch.cat(parts, dim=-1)
    if weight is not None:
        y = y @ weight.to(acc).T
        if bias is not None:
            y = y + bias.to(acc)
    return y.to(codebook.dtype)
