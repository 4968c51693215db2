"""vq_argmin: the nearest codebook entry, without a matrix of distances."""

from collections.abc import Callable
from typing import Any, Literal, overload

import torch
from torch import Tensor

from . import _backend, _check, reference
from ._check import wrong
from ._core import DTYPES, address, core, float32
from ._op import Op
from .reference.vq_argmin import METRICS


def _check_arguments(
    x: Tensor,
    codebook: Tensor,
    *,
    metric: str = "l2",
    residual: bool = False,
    return_distances: bool = False,
) -> None:
    op = "vq_argmin"
    if x.dim() < 1:
        raise wrong(op, "x", "at least one dimension", "a scalar")
    _check.like(codebook, x, op, "codebook", dtype=False)
    if codebook.dim() not in (2, 3):
        raise wrong(op, "codebook", "shape [K, d] or [G, K, d]", list(codebook.shape))
    if 0 in codebook.shape:
        raise wrong(op, "codebook", "at least one entry and dimension", list(codebook.shape))
    if residual and codebook.dim() != 3:
        raise wrong(op, "codebook", "shape [G, K, d] for residual levels", list(codebook.shape))
    parts = 1 if residual or codebook.dim() == 2 else codebook.shape[0]
    width = parts * codebook.shape[-1]
    if x.shape[-1] != width:
        raise wrong(op, "x", f"{width} in its last dimension, as codebook", list(x.shape))
    if metric not in METRICS:
        raise wrong(op, "metric", f"one of {', '.join(METRICS)}", repr(metric))
    if residual and metric != "l2":
        raise wrong(op, "metric", "l2 for residual levels", repr(metric))


def _empty(
    x: Tensor,
    codebook: Tensor,
    *,
    metric: str = "l2",
    residual: bool = False,
    return_distances: bool = False,
) -> tuple[Tensor, Tensor]:
    shape = (*x.shape[:-1], *codebook.shape[:-2])
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    index = torch.empty(shape, dtype=torch.int64, device=x.device)
    return index, torch.empty(shape if return_distances else 0, dtype=dtype, device=x.device)


def _cpu(
    x: Tensor,
    codebook: Tensor,
    *,
    metric: str = "l2",
    residual: bool = False,
    return_distances: bool = False,
) -> tuple[Tensor, Tensor]:
    x, codebook = x.contiguous(), float32(codebook)
    index, distances = _empty(x, codebook, return_distances=return_distances)
    levels = codebook.shape[0] if codebook.dim() == 3 else 1
    args = core().VqArgminArgs(
        x=address(x),
        codebook=address(codebook),
        rows=x.numel() // x.shape[-1],
        stride=x.shape[-1],
        width=codebook.shape[-1],
        entries=codebook.shape[-2],
        levels=levels,
        cosine=metric == "cosine",
        residual=residual,
        indices=address(index),
        distances=address(distances) if return_distances else 0,
    )
    core().vq_argmin(args, DTYPES[x.dtype], torch.get_num_threads())
    return index, distances


def _paired(function: Callable[..., Any]) -> Callable[..., tuple[Tensor, Tensor]]:
    """An implementation without distances unless asked, for a schema that always has them."""

    @torch.no_grad()
    def run(
        x: Tensor,
        codebook: Tensor,
        *,
        metric: str = "l2",
        residual: bool = False,
        return_distances: bool = False,
    ) -> tuple[Tensor, Tensor]:
        found: Any = function(
            x, codebook, metric=metric, residual=residual, return_distances=return_distances
        )
        return found if return_distances else (found, _empty(x, codebook)[1])

    return run


_REFERENCE = _backend.reference(_paired(reference.vq_argmin))

OP = Op(
    reference.vq_argmin,
    check=_check_arguments,
    fake=_empty,
    table={
        "cpu": (_backend.cpu(_cpu), _REFERENCE),
        "cuda": (_backend.triton("vq_argmin", wrap=_paired), _REFERENCE),
        _backend.ANY: (_REFERENCE,),
    },
)


@overload
def vq_argmin(
    x: Tensor,
    codebook: Tensor,
    *,
    metric: str = "l2",
    residual: bool = False,
    return_distances: Literal[False] = False,
) -> Tensor: ...
@overload
def vq_argmin(
    x: Tensor,
    codebook: Tensor,
    *,
    metric: str = "l2",
    residual: bool = False,
    return_distances: bool,
) -> Tensor | tuple[Tensor, Tensor]: ...
def vq_argmin(
    x: Tensor,
    codebook: Tensor,
    *,
    metric: str = "l2",
    residual: bool = False,
    return_distances: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The index of the nearest codebook entry, the lowest where several are as near.

    Distances are decided in float64: the search in float32 only finds the entries among which the
    nearest must be. A distance that is NaN counts as infinite; where all are infinite the index is
    0. No gradient passes.

    van den Oord et al. 2017, arXiv:1711.00937; residual: Zeghidour et al. 2021, arXiv:2107.03312.

    Args:
        x: [..., d] float32 | bfloat16 | float16 | float64; copied if not contiguous.
        codebook: of any floating-point dtype, read as float32 (as float64 for float64 x). [K, d]:
            one index a row. [G, K, d / G]: a product codebook, part g of each row against codebook
            g. [G, K, d] with residual: codebook g against what the entries chosen from codebooks 0
            to g - 1 leave of the row.
        metric: "l2", whose distances are squared, or "cosine", 1 - x.c / (|x| |c|), 1 if either is
            0.
        residual: whether the codebooks are one behind the other.
        return_distances: whether the entries' distances are wanted too.

    Returns:
        int64 indices, [...] or [..., G]; with return_distances (indices, distances), these rounded
        once to float32 (float64 for float64 x).

    Raises:
        RequestError: for shapes that do not fit, an empty codebook and unknown metrics.
    """
    index, distances = OP(
        x, codebook, metric=metric, residual=residual, return_distances=return_distances
    )
    return (index, distances) if return_distances else index
