"""What token models need and pyengine.ops does not have, in plain torch and in one place.

Each function has the shape of the op that is to take its place: a row's result does not depend on
the rows beside it.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# --- norms and convolutions -----------------------------------------------------------------------


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    x: [..., C]; weight: [C], or None for ones. Squares are summed in float32; x's dtype returns.
    Zhang & Sennrich 2019, arXiv:1910.07467.
    """
    wide = x.float()
    y = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
    return y if weight is None else y * weight


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
    return gamma * (x * relative) + beta + x


# --- attention with a cache -----------------------------------------------------------------------


class KVCache:
    """Keys and values of every layer for rows that may have come to different lengths.

    keys, values: per layer [N, most, width]; lengths: [N] int64, tokens that each row has.
    """

    def __init__(self, layers: int, rows: int, most: int, width: int, like: Tensor):
        shape = (rows, most, width)
        self.keys = [like.new_zeros(shape) for _ in range(layers)]
        self.values = [like.new_zeros(shape) for _ in range(layers)]
        self.lengths = torch.zeros(rows, dtype=torch.int64, device=like.device)

    def __getitem__(self, rows: slice) -> "KVCache":
        """Some rows, in the same memory."""
        part = object.__new__(KVCache)
        part.keys, part.values = ([t[rows] for t in side] for side in (self.keys, self.values))
        part.lengths = self.lengths[rows]
        return part

    def keep(self, rows: Tensor) -> None:
        """Leaves only these rows."""
        self.keys, self.values = ([t[rows] for t in side] for side in (self.keys, self.values))
        self.lengths = self.lengths[rows]

    def copy_row(self, source: int, target: int) -> None:
        """Makes row `target` what row `source` is."""
        for tensor in (*self.keys, *self.values, self.lengths):
            tensor[target] = tensor[source]

    def positions(self, count: int) -> Tensor:
        """[N, count]: where the next `count` tokens of every row come."""
        return self.lengths[:, None] + torch.arange(count, device=self.lengths.device)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, heads: int, kv_heads: int, scale: float
    ) -> Tensor:
        """Adds k, v [N, L, kv_heads * D] behind what a row has, and attends to all of it, causally.

        q: [N, L, heads * D]; head h looks at key head h * kv_heads // heads. Returns q's shape.
        """
        n, length = q.shape[:2]
        positions = self.positions(length)
        rows = torch.arange(n, device=q.device)[:, None]
        self.keys[layer][rows, positions] = k
        self.values[layer][rows, positions] = v
        end = int(self.lengths.max()) + length
        q = q.unflatten(2, (heads, -1)).transpose(1, 2)
        k, v = (
            side[layer][:, :end].unflatten(2, (kv_heads, -1)).transpose(1, 2)
            for side in (self.keys, self.values)
        )
        seen = torch.arange(end, device=q.device) <= positions[..., None]
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=seen[:, None], scale=scale, enable_gqa=heads != kv_heads
        )
        return y.transpose(1, 2).flatten(2)

    def advance(self, count: int) -> None:
        """After every layer has attended: the rows are longer by `count` tokens."""
        self.lengths += count


# --- positions and gates --------------------------------------------------------------------------


def rotary_table(positions: Tensor, width: int, theta: float) -> tuple[Tensor, Tensor]:
    """(cosines, sines) of positions [N, L]: [N, L, width // 2] float32. Su et al. 2021,
    arXiv:2104.09864.
    """
    steps = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device) / width
    angles = positions.float()[..., None] * (1.0 / theta**steps)
    return angles.cos(), angles.sin()


def rotary(x: Tensor, heads: int, table: tuple[Tensor, Tensor]) -> Tensor:
    """x [N, L, heads * D] with every head's halves turned against one another by its position."""
    cos, sin = (t[:, :, None].to(x.dtype) for t in table)
    first, second = x.unflatten(2, (heads, -1)).chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(2)


def swiglu(gate: Tensor, value: Tensor) -> Tensor:
    """SiLU(gate) * value. Shazeer 2020, arXiv:2002.05202."""
    return F.silu(gate) * value
