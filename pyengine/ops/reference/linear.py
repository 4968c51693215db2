"""Specification of linear with its epilogue."""

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = {
    "none": lambda y: y,
    "silu": F.silu,
    "gelu": F.gelu,
    "quick_gelu": lambda y: y * torch.sigmoid(1.702 * y),
}


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

    x: [..., C], x2: [..., C2] side by side with it in C; weight: [Cout, C + C2]; bias: [Cout];
    activation: none, silu, gelu (erf) or quick_gelu.  Returns [..., Cout] in x's dtype.
    """
    if x2 is not None:
        x = torch.cat([x, x2], dim=-1)
    y = ACTIVATIONS[activation](F.linear(x, weight, bias))
    return y if residual is None else y + residual
