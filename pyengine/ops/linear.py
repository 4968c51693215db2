"""linear with its epilogue, over torch's matrix products for now."""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _backend, _check, reference
from ._check import wrong
from ._op import Op
from .reference.linear import ACTIVATIONS


def _check_arguments(x, weight, bias=None, *, x2=None, activation="none", residual=None):
    op = "linear"
    if x.dim() < 1:
        raise wrong(op, "x", "at least one dimension", "a scalar")
    channels = x.shape[-1]
    if x2 is not None:
        _check.shape(x2, (*x.shape[:-1], None), op, "x2")
        _check.like(x2, x, op, "x2")
        channels += x2.shape[-1]
    _check.shape(weight, (None, channels), op, "weight")
    _check.like(weight, x, op, "weight")
    if bias is not None:
        _check.shape(bias, (weight.shape[0],), op, "bias")
        _check.like(bias, x, op, "bias")
    if residual is not None:
        _check.shape(residual, (*x.shape[:-1], weight.shape[0]), op, "residual")
        _check.like(residual, x, op, "residual")
    names = ", ".join(ACTIVATIONS)
    if activation not in ACTIVATIONS:
        raise wrong(op, "activation", f"one of {names}", repr(activation))


def _empty(x, weight, bias=None, *, x2=None, activation="none", residual=None):
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _torch(x, weight, bias=None, *, x2=None, activation="none", residual=None):
    if x2 is None:
        y = F.linear(x, weight, bias)
    elif x.dtype == torch.float32:
        # Two products into one sum, since what lies side by side need not be laid side by side.
        first = x.shape[-1]
        y = F.linear(x, weight[:, :first], bias)
        rows = x2.reshape(-1, x2.shape[-1])
        y.view(-1, weight.shape[0]).addmm_(rows, weight[:, first:].T)
    else:  # a sum kept in half precision in between would be rounded twice
        y = F.linear(torch.cat([x, x2], dim=-1), weight, bias)
    if activation == "silu":
        y = F.silu(y, inplace=True)
    elif activation != "none":
        y = ACTIVATIONS[activation](y)
    if residual is not None:
        y = y.add_(residual)
    return y.contiguous()


_ROWS = (_backend.torch_backed(_torch), _backend.reference(reference.linear))

OP = Op(
    "linear",
    "(Tensor x, Tensor weight, Tensor? bias=None, *, Tensor? x2=None, str activation='none', "
    "Tensor? residual=None) -> Tensor",
    check=_check_arguments,
    fake=_empty,
    table={_backend.ANY: _ROWS},
)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    x2: Tensor | None = None,
    activation: str = "none",
    residual: Tensor | None = None,
) -> Tensor:
    """activation(x @ weight.T + bias) + residual.

    x: [..., C] float32 | bfloat16 | float16 | float64; x2: [..., C2] or None, side by side with it
    in C.  weight: [Cout, C + C2]; bias: [Cout] or None; residual: [..., Cout] or None; all of x's
    dtype.  activation: none, silu, gelu (erf) or quick_gelu.
    Returns [..., Cout] in x's dtype.
    Raises RequestError for other shapes, dtypes and activations.
    """
    return OP(x, weight, bias, x2=x2, activation=activation, residual=residual)
