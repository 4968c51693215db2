"""Specifications of geglu and swiglu.  Shazeer 2020, arXiv:2002.05202."""

import torch
from torch import Tensor

from ._activations import gelu, gelu_tanh, silu


def geglu(x: Tensor) -> Tensor:
    """value * GELU(gate), x = [value, gate] in the last dimension; the exact (erf) GELU.

    x: [..., 2 * D].  Returns [..., D] in x's dtype, computed in float32.
    """
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    value, gate = x.to(acc).chunk(2, dim=-1)
    return (value * gelu(gate)).to(x.dtype)


def geglu_tanh(x: Tensor) -> Tensor:
    """value * gelu_tanh(gate), x = [value, gate] in the last dimension: an activation of linear.

    x: [..., 2 * D].  Returns [..., D] in x's dtype, computed in float32.
    """
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    value, gate = x.to(acc).chunk(2, dim=-1)
    return (value * gelu_tanh(gate)).to(x.dtype)


def swiglu(x: Tensor) -> Tensor:
    """value * SiLU(gate), x = [value, gate] in the last dimension.

    x: [..., 2 * D].  Returns [..., D] in x's dtype, computed in float32.
    """
    acc = torch.float64 if x.dtype == torch.float64 else torch.float32
    value, gate = x.to(acc).chunk(2, dim=-1)
    return (value * silu(gate)).to(x.dtype)
