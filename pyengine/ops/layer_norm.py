"""layer_norm and rms_norm.  Ba, Kiros & Hinton 2016, arXiv:1607.06450."""

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
    args = core().LayerNormArgs(
        x=address(x),
        weight=address(weight),
        bias=address(bias),
        y=address(y),
        rows=x.numel() // width if width else 0,
        width=width,
        eps=eps,
    )
    core().layer_norm(args, DTYPES[x.dtype], torch.get_num_threads())
    return y


OP = Op(
    reference.layer_norm,
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

    Ba, Kiros & Hinton 2016, arXiv:1607.06450.

    Args:
        x: [..., C] float32 | bfloat16 | float16 | float64; copied if it is not contiguous.
        weight, bias: [C] of any floating-point dtype, or None for ones and zeros.
        eps: at least 0.

    Returns:
        x's shape and dtype; computed in float32 (float64 for float64).

    Raises:
        RequestError: for other shapes.
    """
    return OP(x, weight, bias, eps)


# --- rms_norm -------------------------------------------------------------------------------------


def _check_rms(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> None:
    if x.dim() < 1:
        raise wrong("rms_norm", "x", "at least one dimension", "a scalar")
    if not eps >= 0:
        raise wrong("rms_norm", "eps", "at least 0", eps)
    if weight is not None:
        _check.shape(weight, (x.shape[-1],), "rms_norm", "weight")
        _check.like(weight, x, "rms_norm", "weight", dtype=False)


def _empty_rms(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    return x.new_empty(x.shape)


def _cpu_rms(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    x = x.contiguous()
    weight = None if weight is None else float32(weight)
    y = _memory.empty_like(x)
    width = x.shape[-1]
    args = core().LayerNormArgs(
        x=address(x),
        weight=address(weight),
        y=address(y),
        rows=x.numel() // width if width else 0,
        width=width,
        eps=eps,
    )
    core().rms_norm(args, DTYPES[x.dtype], torch.get_num_threads())
    return y


RMS_NORM = Op(
    reference.rms_norm,
    check=_check_rms,
    fake=_empty_rms,
    table={
        "cpu": (_backend.cpu(_cpu_rms), _backend.reference(reference.rms_norm)),
        "cuda": (
            _backend.triton("rms_norm", module="layer_norm"),
            _backend.reference(reference.rms_norm),
        ),
        _backend.ANY: (_backend.reference(reference.rms_norm),),
    },
    module="layer_norm",
)


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    Zhang & Sennrich 2019, arXiv:1910.07467.

    Args:
        x: [..., C] float32 | bfloat16 | float16 | float64; copied if it is not contiguous.
        weight: [C] of any floating-point dtype, or None for ones.
        eps: at least 0.

    Returns:
        x's shape and dtype; computed in float32 (float64 for float64), rounded once.

    Raises:
        RequestError: for other shapes.
    """
    return RMS_NORM(x, weight, eps)
