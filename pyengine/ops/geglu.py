"""geglu and swiglu: gated activations of transformer blocks.  Shazeer 2020, arXiv:2002.05202."""

from collections.abc import Callable
from typing import Any

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


def _queue(module: Any, op: str, x: Tensor, y: Tensor, on: int) -> Tensor:
    """on: a number of threads, of the CPU's module; a stream's handle, of the GPU's."""
    width = y.shape[-1]
    rows = y.numel() // width if width else 0
    args = module.GegluArgs(x=address(x), y=address(y), rows=rows, width=width)
    getattr(module, op)(args, DTYPES[x.dtype], on)
    return y


def _cpu_for(op: str) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        x = x.contiguous()
        y = _memory.empty((*x.shape[:-1], x.shape[-1] // 2), x.dtype)
        return _queue(core(), op, x, y, torch.get_num_threads())

    return run


def _cuda(module: Any, x: Tensor) -> Tensor:
    x = x.contiguous()
    with _backend.stream_of(x) as stream:
        return _queue(module, "geglu", x, _empty(x), stream)


def _op(name: str) -> Op[Tensor]:
    specification = _backend.reference(getattr(reference, name))
    triton = _backend.triton(name, module="geglu")
    on_gpus = (_backend.cuda(_cuda), triton) if name == "geglu" else (triton,)
    return Op(
        getattr(reference, name),
        check=_check_for(name),
        fake=_empty,
        table={
            "cpu": (_backend.cpu(_cpu_for(name)), specification),
            "cuda": (*on_gpus, specification),
            _backend.ANY: (specification,),
        },
        module="geglu",
    )


OP = _op("geglu")
SWIGLU = _op("swiglu")


def geglu(x: Tensor) -> Tensor:
    """value * GELU(gate), x = [value, gate] in the last dimension; the exact (erf) GELU.

    Shazeer 2020, arXiv:2002.05202.

    Args:
        x: [..., 2 * D] float32 | bfloat16 | float16 | float64; copied if it is not contiguous.

    Returns:
        [..., D], x's dtype; computed in float32 (float64 for float64).

    Raises:
        RequestError: if the last dimension is odd.
    """
    return OP(x)


def swiglu(x: Tensor) -> Tensor:
    """value * SiLU(gate), x = [value, gate] in the last dimension.

    Shazeer 2020, arXiv:2002.05202.

    Args:
        x: [..., 2 * D] float32 | bfloat16 | float16 | float64; copied if it is not contiguous.

    Returns:
        [..., D], x's dtype; computed in float32 (float64 for float64).

    Raises:
        RequestError: if the last dimension is odd.
    """
    return SWIGLU(x)
