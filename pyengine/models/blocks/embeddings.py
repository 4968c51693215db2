"""Embeddings of timesteps and other numbers.  Vaswani et al. 2017; Ho et al. 2020."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...errors import RequestError
from ...layers import Linear

MAX_PERIOD = 10000.0


def sinusoids(values: Tensor, dim: int, flip_sin_to_cos: bool, freq_shift: float) -> Tensor:
    """[..., dim] float32: sines, then cosines (if flipped, cosines first) of dim // 2 angles each.

    values: [...], timesteps or sizes. The frequencies fall from 1 towards 1 / MAX_PERIOD; an odd
    dim ends with a zero. Computed in float32 in the order in which the models were trained: at
    t = 999 the rounding of a frequency moves the angle by 6e-5. Each value by itself: where torch's
    vectors end depends on a tensor's size, and what is left over has other last bits.
    """
    half = dim // 2
    exponents = -math.log(MAX_PERIOD) * torch.arange(
        half, dtype=torch.float32, device=values.device
    )
    frequencies = torch.exp(exponents / (half - freq_shift))
    rest = frequencies.new_zeros(dim % 2)
    rows = []
    for value in values.to(torch.float32).reshape(-1):
        angles = value * frequencies
        halves = (angles.cos(), angles.sin()) if flip_sin_to_cos else (angles.sin(), angles.cos())
        rows.append(torch.cat((*halves, rest)))
    return torch.stack(rows).view(*values.shape, dim)


class TimestepEmbedding(nn.Module):
    """Two linear layers with an activation between them, SiLU or what ops.linear has.

    cond_dim: width of a further condition that is projected and added to the input: the guidance
    scale of LCM, Luo et al. 2023, arXiv:2310.04378.
    """

    def __init__(
        self, in_dim: int, out_dim: int, cond_dim: int | None = None, activation: str = "silu"
    ):
        super().__init__()
        self.activation = activation
        self.linear_1 = Linear(in_dim, out_dim)
        self.cond_proj = Linear(cond_dim, in_dim, bias=False) if cond_dim is not None else None
        self.linear_2 = Linear(out_dim, out_dim)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        """x: [..., in_dim], condition: [..., cond_dim], broadcast together -> [..., out_dim]."""
        if condition is not None:
            assert self.cond_proj is not None
            x = x + self.cond_proj(condition)
        return self.linear_2(self.linear_1(x, activation=self.activation))


def flat_timesteps(timesteps: Tensor | Sequence[float] | float, device: torch.device) -> Tensor:
    """[N] of a number or of [N] timesteps; raises RequestError for other shapes."""
    t = torch.as_tensor(timesteps, device=device)
    if t.dim() > 1:
        raise RequestError(f"timestep: expected a number or [N], got {list(t.shape)}")
    return t.reshape(-1)
