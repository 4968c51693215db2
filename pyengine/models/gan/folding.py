"""Weights that take in what follows them: batch norm and spectral norm, in float64, once, at load.

Plain torch: it runs once per layer.
"""

import torch
from torch import Tensor

#: torch.nn.BatchNorm2d's, which no published generator changes.
BATCH_NORM_EPS = 1e-5


def batch_norm_affine(
    weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float = BATCH_NORM_EPS
) -> tuple[Tensor, Tensor]:
    """(scale, shift), float64 [C]: batch norm by its running statistics is x * scale + shift.

    Ioffe & Szegedy 2015, arXiv:1502.03167.
    """
    scale = weight.double() / torch.sqrt(variance.double() + eps)
    return scale, bias.double() - mean.double() * scale
