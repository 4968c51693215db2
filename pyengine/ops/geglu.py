"""geglu and swiglu: gated activations of transformer blocks.  Shazeer 2020, arXiv:2002.05202."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import _backend, _memory, reference
from ._check import wrong
from ._core import DTYPES, address, core
from ._op import Op


def _check_for(op: str) -> Callable[[Tensor], None]:
    def check(x: Tensor) -> None:
        if x.dim() < 1:
            raise wrong(op, "x", "at least one dimension", "a scalar")
        if x.shape[-1] % 2:
            raise wrong(op, "x", "an even last dimension", list(x.shape))

    return check


def _empty(x: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)


def _cpu_for(op: str) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        x = x.contiguous()
        y = _memory.empty((*x.shape[:-1], x.shape[-1] // 2), x.dtype)
        width = y.shape[-1]
        rows = y.numel() // width if width else 0
        kernel = getattr(core(), op)
        args = core().GegluArgs(x=address(x), y=address(y), rows=rows, width=width)
        kernel(args, DTYPES[x.dtype], torch.get_num_threads())
        return y

    return run


def _op(name: str) -> Op[Tensor]:
    specification = _backend.reference(getattr(reference, name))
    return Op(
        getattr(reference, name),
        check=_check_for(name),
        fake=_empty,
        table={
            "cpu": (_backend.cpu(_cpu_for(name)), specification),
            "cuda": (_backend.triton(name, module="geglu"), specification),
            _backend.ANY: (specification,),
        },
        module="geglu",
    )


OP = _op("geglu")
SWIGLU = _op("swiglu")


def geglu(x: Tensor) -> Tensor:
    """value * GELU(gate), x = [value, gate] in the last dimension; the exact (erf) GELU.

    x: [..., 2 * D] float32 | bfloat16 | float16 | float64; copied if it is not contiguous.
    Returns [..., D], x's dtype; computed in float32 (float64 for float64).
    Raises RequestError if the last dimension is odd.
    Shazeer 2020, arXiv:2002.05202.
    """
    return OP(x)


def swiglu(x: Tensor) -> Tensor:
    """value * SiLU(gate), x = [value, gate] in the last dimension.

    x: [..., 2 * D] float32 | bfloat16 | float16 | float64; copied if it is not contiguous.
    Returns [..., D], x's dtype; computed in float32 (float64 for float64).
    Raises RequestError if the last dimension is odd.
    Shazeer 2020, arXiv:2002.05202.
    """
    return SWIGLU(x)
