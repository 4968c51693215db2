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


def spectral_weight(weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """weight [out, ...] divided by u' W v, in weight's dtype: torch.nn.utils.spectral_norm's weight
    in evaluation, of the vectors as they are stored.
    """
    wide = weight.double()
    # Row by row, then once: no sum whose order goes by the number of threads.
    sigma = (u.double() * (wide.flatten(1) * v.double()).sum(dim=1)).sum()
    return (wide / sigma).to(weight.dtype)
