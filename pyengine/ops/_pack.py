"""Weights in the order in which the CPU kernels read them.

A panel is 16 output channels side by side, whatever the instruction set (csrc/core/gemm): one order
serves matrix products, direct convolution and Winograd.
"""

import torch.nn.functional as F
from torch import Tensor

PANEL = 16


def pack_weight(weight: Tensor) -> Tensor:
    """[Cout, ...] -> [ceil(Cout / 16), ..., 16], contiguous, dtype kept; missing channels are zero.

    weight: [Cout, C] of a linear layer or [Cout, KH, KW, C] of a convolution.
    """
    missing = -weight.shape[0] % PANEL
    if missing:
        weight = F.pad(weight, (0, 0) * (weight.dim() - 1) + (0, missing))
    return weight.unflatten(0, (-1, PANEL)).movedim(1, -1).contiguous()


def unpack_weight(packed: Tensor, channels: int | None = None) -> Tensor:
    """What pack_weight was given; channels: Cout, where it is not a multiple of 16."""
    weight = packed.movedim(-1, 1).flatten(0, 1)
    return weight if channels is None else weight[:channels]
