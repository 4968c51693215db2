"""Specification of vq_argmin: the nearest codebook entry.

van den Oord et al. 2017, arXiv:1711.00937 (VQ-VAE); Jégou et al. 2011 (product codebooks);
Zeghidour et al. 2021, arXiv:2107.03312 (residual codebooks).
"""

import torch
from torch import Tensor

METRICS = ("l2", "cosine")

#: Elements of the differences that are held at a time.
_CHUNK = 1 << 22


def vq_argmin(
    x: Tensor,
    codebook: Tensor,
    *,
    metric: str = "l2",
    residual: bool = False,
    return_distances: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The index of the nearest codebook entry, the lowest where several are as near.

    x: [..., d].  codebook: [K, d]: one index a row, [...].  [G, K, d / G]: a product codebook, part
    g of each row against codebook g.  [G, K, d] with residual=True: codebook g against what the
    entries chosen from codebooks 0 to g - 1 leave of the row.  With G codebooks, [..., G] indices.
    metric: "l2", whose distances are squared, |x - c|^2, or "cosine", 1 - x.c / (|x| |c|), which
    is 1 where x or c is zero.
    A distance that is NaN (x or the entry has NaN) counts as infinite, and where all are infinite
    the index is 0.
    Returns int64 indices; with return_distances also the distances of those entries, in float32
    (float64 for float64 x).  Distances are taken, compared and, for residuals, subtracted in
    float64.
    """
    books = (codebook if codebook.dim() == 3 else codebook[None]).double()
    levels, _, width = books.shape
    rest = x.reshape(-1, x.shape[-1]).double()
    indices, distances = [], []
    for level, book in enumerate(books):
        part = rest if residual or levels == 1 else rest[:, level * width : (level + 1) * width]
        rows = max(1, _CHUNK // book.numel())
        found = [_nearest(chunk, book, metric) for chunk in part.split(rows)]
        indices.append(torch.cat([index for index, _ in found]))
        distances.append(torch.cat([distance for _, distance in found]))
        if residual:
            rest = rest - book[indices[-1]]
    shape = (*x.shape[:-1], levels) if codebook.dim() == 3 else x.shape[:-1]
    index = torch.stack(indices, dim=-1).reshape(shape)
    if not return_distances:
        return index
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    return index, torch.stack(distances, dim=-1).reshape(shape).to(dtype)


def _nearest(x: Tensor, book: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """(index, distance) for each row of x [rows, d] in book [K, d]."""
    if metric == "l2":
        distances = (x[:, None] - book).square().sum(dim=-1)
    else:
        both = x.square().sum(dim=-1)[:, None] * book.square().sum(dim=-1)
        products = (x[:, None] * book).sum(dim=-1)
        distances = torch.where(both == 0, 1.0, 1 - products / both.sqrt())
    index = distances.nan_to_num(nan=torch.inf, posinf=torch.inf).argmin(dim=-1)
    return index, distances.gather(1, index[:, None])[:, 0]
