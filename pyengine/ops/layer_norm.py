"""layer_norm.  Ba, Kiros & Hinton 2016, arXiv:1607.06450."""

import torch
from torch import Tensor

from . import _backend, _check, _memory, reference
from ._check import wrong
from ._core import DTYPES, address, core, float32
from ._op import Op


def _check_arguments(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5
) -> None:
    if x.dim() < 1:
        raise wrong("layer_norm", "x", "at least one dimension", "a scalar")
    if not eps >= 0:
        raise wrong("layer_norm", "eps", "at least 0", eps)
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is not None:
            _check.shape(tensor, (x.shape[-1],), "layer_norm", name)
            _check.like(tensor, x, "layer_norm", name, dtype=False)


def _empty(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    return x.new_empty(x.shape)


def _cpu(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    x = x.contiguous()
    weight = None if weight is None else float32(weight)
    bias = None if bias is None else float32(bias)
    y = _memory.empty_like(x)
    width = x.shape[-1]
    core().layer_norm(
        address(x), address(weight), address(bias), address(y),
        x.numel() // width if width else 0, width, eps, DTYPES[x.dtype], torch.get_num_threads(),
    )  # fmt: skip
    return y


OP = Op(
    "layer_norm",
    "(Tensor x, Tensor? weight, Tensor? bias, float eps=1e-05) -> Tensor",
    check=_check_arguments,
    fake=_empty,
    table={
        "cpu": (_backend.cpu(_cpu), _backend.reference(reference.layer_norm)),
        "cuda": (_backend.triton("layer_norm"), _backend.reference(reference.layer_norm)),
        _backend.ANY: (_backend.reference(reference.layer_norm),),
    },
)


def layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last dimension.

    x: [..., C] float32 | bfloat16 | float16 | float64; copied if it is not contiguous.
    weight, bias: [C] of any floating-point dtype, or None for ones and zeros.  eps: at least 0.
    Returns x's shape and dtype; computed in float32 (float64 for float64).
    Raises RequestError for other shapes.
    Ba, Kiros & Hinton 2016, arXiv:1607.06450.
    """
    return OP(x, weight, bias, eps)
