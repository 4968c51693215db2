"""geglu: the gated activation of the transformer blocks.  Shazeer 2020, arXiv:2002.05202."""

import torch
from torch import Tensor

from . import _backend, _memory, reference
from ._check import wrong
from ._core import DTYPES, address, core
from ._op import Op


def _check(x: Tensor) -> None:
    if x.dim() < 1:
        raise wrong("geglu", "x", "at least one dimension", "a scalar")
    if x.shape[-1] % 2:
        raise wrong("geglu", "x", "an even last dimension", list(x.shape))


def _empty(x: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)


def _cpu(x: Tensor) -> Tensor:
    x = x.contiguous()
    y = _memory.empty((*x.shape[:-1], x.shape[-1] // 2), x.dtype)
    width = y.shape[-1]
    rows = y.numel() // width if width else 0
    core().geglu(address(x), address(y), rows, width, DTYPES[x.dtype], torch.get_num_threads())
    return y


OP = Op(
    "geglu",
    "(Tensor x) -> Tensor",
    check=_check,
    fake=_empty,
    table={
        "cpu": (_backend.cpu(_cpu), _backend.reference(reference.geglu)),
        "cuda": (_backend.triton("geglu"), _backend.reference(reference.geglu)),
        _backend.ANY: (_backend.reference(reference.geglu),),
    },
)


def geglu(x: Tensor) -> Tensor:
    """value * GELU(gate), x = [value, gate] in the last dimension; the exact (erf) GELU.

    x: [..., 2 * D] float32 | bfloat16 | float16 | float64; copied if it is not contiguous.
    Returns [..., D], x's dtype; computed in float32 (float64 for float64).
    Raises RequestError if the last dimension is odd.
    Shazeer 2020, arXiv:2002.05202.
    """
    return OP(x)
