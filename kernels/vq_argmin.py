"""vq_argmin in Triton: three launches a level, and no matrix of distances.

_prepare  the row in float64 (less the entries that earlier levels chose), and in float32 about a
          centre near the codebook's mean
_lows     scores |c|^2 / 2 - x.c in float32, of which only the least of each group of entries stays
_decide   the distances in float64 of every group whose least score is within the error's bound of
          the least of all

How the bound is found: csrc/core/vq/vq_argmin.simd.cc, of which this is the same algorithm.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._launch import Launch, cdiv, power_of_2, prepare

ROWS, ENTRIES, DEPTH = 32, 64, 16  # a tile: 16 scores for each of 128 threads
MAX_GROUPS = 256  # least scores per row: 1 KB
CENTRE_ENTRIES = 256


@triton.jit(do_not_specialize=["rows"])
def _prepare(
    x,
    codebook,
    centre,
    indices,
    rest,
    centred,
    norms,
    rows,
    stride,
    offset,
    width,
    entries,
    levels,
    PREVIOUS: tl.constexpr,
    COSINE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, BLOCK)
    inside = k < width
    v = tl.load(x + row * stride + offset + k, mask=inside, other=0.0).to(tl.float64)
    for level in tl.static_range(PREVIOUS):
        chosen = tl.load(indices + row * levels + level)
        entry = codebook + (level * entries + chosen) * width
        v -= tl.load(entry + k, mask=inside, other=0.0).to(tl.float64)
    tl.store(rest + row * width + k, v, mask=inside)
    if COSINE:
        square = tl.sum(v * v, axis=0)
        v = tl.where(square > 0, v / tl.sqrt(tl.where(square > 0, square, 1.0)), v)
    v -= tl.load(centre + k, mask=inside, other=0.0).to(tl.float64)
    tl.store(centred + row * width + k, v.to(tl.float32), mask=inside)
    tl.store(norms + row, tl.sqrt(tl.sum(v * v, axis=0)))


@triton.jit(do_not_specialize=["rows"])
def _lows(
    centred,
    packed,
    halves,
    lows,
    rows,
    width,
    entries,
    groups,
    blocks,
    ROWS: tl.constexpr,
    ENTRIES: tl.constexpr,
    DEPTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    group = tl.program_id(1)
    depth = tl.arange(0, DEPTH)
    low = tl.full([ROWS], float("inf"), tl.float32)
    for block in range(blocks):
        entry = (group * blocks + block) * ENTRIES + tl.arange(0, ENTRIES)
        there = entry < entries
        products = tl.zeros([ROWS, ENTRIES], tl.float32)
        for first in range(0, width, DEPTH):
            k = first + depth
            a = tl.load(
                centred + row[:, None] * width + k[None, :],
                mask=(row < rows)[:, None] & (k < width)[None, :],
                other=0.0,
            )
            b = tl.load(
                packed + entry[None, :].to(tl.int64) * width + k[:, None],
                mask=there[None, :] & (k < width)[:, None],
                other=0.0,
            )
            products = tl.dot(a, b, products, input_precision="ieee")
        half = tl.load(halves + entry, mask=there, other=float("inf"))
        score = half[None, :] - products
        score = tl.where(score == score, score, float("inf"))
        low = tl.minimum(low, tl.min(score, axis=1))
    tl.store(lows + row * groups + group, low, mask=row < rows)


@triton.jit
def _distances(rest, book, entry, there, width, COSINE: tl.constexpr, DEPTH: tl.constexpr):
    """Of one row to a block of entries, in float64; infinite where NaN or not there."""
    total = tl.zeros(entry.shape, tl.float64)
    squares = tl.zeros(entry.shape, tl.float64)
    square = tl.zeros([1], tl.float64)
    for first in range(0, width, DEPTH):
        k = first + tl.arange(0, DEPTH)
        inside = k < width
        x = tl.load(rest + k, mask=inside, other=0.0)
        c = tl.load(
            book + entry[:, None].to(tl.int64) * width + k[None, :],
            mask=there[:, None] & inside[None, :],
            other=0.0,
        ).to(tl.float64)
        if COSINE:
            total += tl.sum(x[None, :] * c, axis=1)
            squares += tl.sum(c * c, axis=1)
            square += tl.sum(x * x, axis=0)
        else:
            d = x[None, :] - c
            total += tl.sum(d * d, axis=1)
    if COSINE:
        both = square * squares
        total = tl.where(both == 0, 1.0, 1 - total / tl.sqrt(tl.where(both == 0, 1.0, both)))
    return total


@triton.jit(do_not_specialize=["rows"])
def _decide(
    rest,
    norms,
    book,
    lows,
    indices,
    distances,
    rows,
    width,
    entries,
    groups,
    blocks,
    levels,
    level,
    unit,
    COSINE: tl.constexpr,
    GROUPS: tl.constexpr,
    ENTRIES: tl.constexpr,
    DEPTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    line = tl.arange(0, GROUPS)
    every = tl.load(lows + row * groups + line, mask=line < groups, other=float("inf"))
    least = tl.min(every, axis=0).to(tl.float64)
    norm = tl.load(norms + row)
    unit = tl.full([], 0.0, tl.float64) + unit
    inner = tl.maximum(norm * norm + 2 * least, 0.0)
    reach = (norm + tl.sqrt(inner)) * (1 + unit + 3 * tl.sqrt(unit))
    bound = least + 2.02 * unit * (reach * reach / 2 + norm * reach)
    # Beyond these, and for rows with NaN or infinities, no bound holds: products overflow.
    bound = tl.where((norm < 1e18) & (least < 1e36), bound, float("inf"))
    best = tl.full([], float("inf"), tl.float64)
    index = tl.full([], 0, tl.int32)
    rest += row * width
    for group in range(groups):
        if tl.load(lows + row * groups + group).to(tl.float64) <= bound:
            for block in range(blocks):
                entry = (group * blocks + block) * ENTRIES + tl.arange(0, ENTRIES)
                there = entry < entries
                d = _distances(rest, book, entry, there, width, COSINE, DEPTH)
                d = tl.where(there & (d == d), d, float("inf"))
                nearest = tl.min(d, axis=0)
                first = tl.min(tl.where(d == nearest, entry, 2147483647), axis=0)
                # Entries come in rising order, so what is only as near is not the lowest.
                index = tl.where(nearest < best, first, index)
                best = tl.minimum(best, nearest)
    tl.store(indices + row * levels + level, index.to(tl.int64))
    if distances is not None:
        entry = index + tl.arange(0, 16)
        chosen = _distances(rest, book, entry, entry == index, width, COSINE, DEPTH)
        chosen = tl.sum(tl.where(entry == index, chosen, 0.0), axis=0)
        tl.store(distances + row * levels + level, chosen.to(tl.float32))


def _pack(books: Tensor, cosine: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(centre [G, d], entries about it [G, K, d], halves of their squared norms [G, K])."""
    wide = books.double()
    if cosine:
        norms = wide.square().sum(dim=-1, keepdim=True).sqrt()
        wide = wide / torch.where(norms > 0, norms, 1.0)
    finite = wide.isfinite().all(dim=-1, keepdim=True)
    sample = torch.where(finite, wide, 0.0)[:, :: cdiv(books.shape[1], CENTRE_ENTRIES)]
    centre = sample.mean(dim=1).float()
    about = wide - centre.double()[:, None]
    halves = about.square().sum(dim=-1) / 2
    if cosine:  # zero is at a right angle to everything
        halves = halves + torch.where(norms[..., 0] > 0, 0.0, 0.5)
    halves = torch.where(finite[..., 0], halves, torch.inf)
    about = torch.where(finite, about, 0.0)
    return centre, about.float().contiguous(), halves.float().contiguous()


def plan(
    x: Tensor,
    codebook: Tensor,
    *,
    metric: str = "l2",
    residual: bool = False,
    return_distances: bool = False,
) -> tuple[list[Launch], tuple[Tensor, Tensor]]:
    """The launches that compute vq_argmin(...), and the tensors they fill."""
    x, codebook = prepare("vq_argmin", x, codebook)
    books = (codebook if codebook.dim() == 3 else codebook[None]).float()
    levels, entries, width = books.shape
    rows = x.numel() // x.shape[-1]
    cosine = metric == "cosine"
    centre, packed, halves = _pack(books, cosine)
    shape = (*x.shape[:-1], *codebook.shape[:-2])
    indices = torch.empty(shape, dtype=torch.int64, device=x.device)
    size = shape if return_distances else (0,)
    distances = torch.empty(size, dtype=torch.float32, device=x.device)
    rest = torch.empty(rows, width, dtype=torch.float64, device=x.device)
    centred = torch.empty(rows, width, dtype=torch.float32, device=x.device)
    norms = torch.empty(rows, dtype=torch.float64, device=x.device)
    blocks = cdiv(entries, ENTRIES * MAX_GROUPS)
    groups = cdiv(entries, ENTRIES * blocks)
    lows = torch.empty(rows, groups, dtype=torch.float32, device=x.device)
    launches = []
    for level in range(levels):
        sizes = {"rows": rows, "width": width, "entries": entries}
        launches += [
            Launch(
                _prepare,
                (rows,),
                {"x": x, "codebook": books, "centre": centre[level].clone(), "indices": indices}
                | {"rest": rest, "centred": centred, "norms": norms, **sizes}
                | {"stride": x.shape[-1], "offset": 0 if residual else level * width}
                | {"levels": levels},
                {"PREVIOUS": level if residual else 0, "COSINE": cosine}
                | {"BLOCK": power_of_2(width)},
            ),
            Launch(
                _lows,
                (cdiv(rows, ROWS), groups),
                {"centred": centred, "packed": packed[level].clone()}
                | {"halves": halves[level].clone(), "lows": lows}
                | {**sizes, "groups": groups, "blocks": blocks},
                {"ROWS": ROWS, "ENTRIES": ENTRIES, "DEPTH": DEPTH},
            ),
            Launch(
                _decide,
                (rows,),
                {"rest": rest, "norms": norms, "book": books[level].clone(), "lows": lows}
                | {"indices": indices, "distances": distances if return_distances else None}
                | {**sizes, "groups": groups, "blocks": blocks, "levels": levels, "level": level}
                | {"unit": (width + 8) * 2.0**-24},
                {"COSINE": cosine, "GROUPS": power_of_2(groups)}
                | {"ENTRIES": ENTRIES, "DEPTH": DEPTH},
            ),
        ]
    return launches, (indices, distances)


def vq_argmin(
    x: Tensor,
    codebook: Tensor,
    *,
    metric: str = "l2",
    residual: bool = False,
    return_distances: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The index of the nearest codebook entry, the lowest where several are as near.

    Arguments as pyengine.ops.vq_argmin's, on one GPU, x float32 | bfloat16 | float16; copied if not
    contiguous.  Returns int64 indices; with return_distances also the float32 distances.
    """
    launches, results = plan(
        x, codebook, metric=metric, residual=residual, return_distances=return_distances
    )
    for launch in launches:
        launch.run()
    return results if return_distances else results[0]
