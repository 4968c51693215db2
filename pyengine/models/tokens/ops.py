"""What token models need and pyengine.ops does not have, in plain torch and in one place.

Each function has the shape of the op that is to take its place: a row's result does not depend on
the rows beside it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution of every channel by itself. x: [N, H, W, C]; weight: [C, 1, 3, 3]."""
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=1, groups=weight.shape[0])
    return y.permute(0, 2, 3, 1).contiguous()


def global_response_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """x + gamma * x * r + beta, r the norm of each channel over that of the average channel.

    x: [N, H, W, C]; gamma, beta: [C]. Woo et al. 2023, arXiv:2301.00808.
    """
    size = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
    relative = size / (size.mean(dim=-1, keepdim=True) + eps)
    y: Tensor = gamma * (x * relative) + beta + x
    return y
