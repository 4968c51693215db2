"""Specifications of the activations that ops apply to their inputs and sums.

They are written out, as torch's own functions are no specification at the ends of the range: its
GELU is NaN at infinity and infinite from 1.7e38 where oneDNN computes it, as on most CPUs. Minus
infinity gives NaN in all of them: the product of minus infinity and 0 that the formulas say.

Each takes any floating-point x and returns x's dtype; computed in float32 at least, and so rounded
once.
"""

import math

import torch
from torch import Tensor


def silu(x: Tensor) -> Tensor:
    """x / (1 + exp(-x)).  Elfwing et al. 2017, arXiv:1702.03118."""
    wide = _wide(x)
    return (wide * torch.sigmoid(wide)).to(x.dtype)


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return x.clamp(min=0)


def gelu(x: Tensor) -> Tensor:
    """x Phi(x), the exact GELU.  Hendrycks & Gimpel 2016, arXiv:1606.08415.

    Phi is the normal distribution's, by erfc, whose lower tail keeps its digits: 1 + erf has none
    left at -5.5.
    """
    wide = _wide(x)
    return (wide * (0.5 * torch.erfc(wide * -(0.5**0.5)))).to(x.dtype)


def quick_gelu(x: Tensor) -> Tensor:
    """x / (1 + exp(-1.702 x)): what stands for GELU in CLIP."""
    wide = _wide(x)
    return (wide * torch.sigmoid(1.702 * wide)).to(x.dtype)


def gelu_tanh(x: Tensor) -> Tensor:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2: GELU as GPT-2, T5 1.1 and DiT have it.

    Written x / (1 + exp(-2 u)), whose lower tail keeps its digits: 1 + tanh has none left at -5.
    Hendrycks & Gimpel 2016, arXiv:1606.08415.
    """
    wide = _wide(x)
    twice = (8 / math.pi) ** 0.5 * (wide + 0.044715 * wide * wide * wide)
    return (wide * torch.sigmoid(twice)).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
