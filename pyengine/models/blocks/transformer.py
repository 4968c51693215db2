"""Attention over pictures: the U-Net's transformer blocks, and the autoencoder's single head.

Vaswani et al. 2017, arXiv:1706.03762; Rombach et al. 2022, arXiv:2112.10752, appendix E.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ... import ops
from ...layers import Fused, GroupNorm, LayerNorm, Linear, PointwiseConv2d, fuse

#: What diffusers gives the group norm before a transformer, whatever the config says.
NORM_EPS = 1e-6


@dataclass(frozen=True)
class FurtherAttention:
    """Keys and values that a cross-attention attends to apart from the text's (IP-Adapter).

    keys, values: [N, L, width].  scale: [N], what the result counts in each row. mask: [N, Lq],
    what it counts in each pixel besides, or None.
    """

    keys: Tensor
    values: Tensor
    scale: Tensor
    mask: Tensor | None = None

    def added_to(self, y: Tensor, q: Tensor, heads: int) -> Tensor:
        """y + scale * attention(q, keys, values); a row whose scale is 0 keeps its bits."""
        scale = self.scale[:, None, None]
        other = ops.attention(q, self.keys, self.values, heads)
        if self.mask is not None:
            other = other * self.mask[..., None]
        return torch.where(scale == 0, y, (y + scale * other).to(y.dtype))


#: Keys and values of the text [N, L, width] each, and what else is attended to.
Attended = tuple[Tensor | FurtherAttention, ...]


class SelfAttention(nn.Module):
    """Multi-head attention of tokens [N, L, width] to themselves.

    bias: of the three input projections; the output projection always has one.
    """

    def __init__(self, width: int, heads: int, bias: bool = False):
        super().__init__()
        self.heads = heads
        self.to_q = Linear(width, width, bias)
        self.to_k = Linear(width, width, bias)
        self.to_v = Linear(width, width, bias)
        self.to_out = nn.ModuleList([Linear(width, width)])
        self.to_qkv: Fused | None = None

    def pack(self) -> None:
        if self.to_qkv is None:
            self.to_qkv = fuse(self, "to_q", "to_k", "to_v")

    def _project(self, x: Tensor, **norm: Any) -> tuple[Tensor, Tensor, Tensor]:
        if self.to_qkv is not None:
            return cast(tuple[Tensor, Tensor, Tensor], self.to_qkv(x, **norm))
        return self.to_q(x, **norm), self.to_k(x, **norm), self.to_v(x, **norm)

    def forward(
        self, x: Tensor, residual: Tensor, gate: Tensor | None = None, **norm: Tensor
    ) -> Tensor:
        """x, residual: [N, L, width]; norm: scale and shift for x, gate: [N, width] for the result,
        as ops.linear takes them.
        """
        y = ops.attention(*self._project(x, **norm), self.heads)
        gated = {} if gate is None else {"gate": gate}
        out: Tensor = self.to_out[0](y, residual=residual, **gated)
        return out


class CrossAttention(nn.Module):
    """Attention to the text. Its keys and values are made once per prompt: see TextContext."""

    #: Which of the context's keys and values are this layer's; the U-Net numbers them.
    slot: int | None = None

    def __init__(self, width: int, heads: int, context_width: int):
        super().__init__()
        self.heads, self.context_width = heads, context_width
        self.to_q = Linear(width, width, bias=False)
        self.to_k = Linear(context_width, width, bias=False)
        self.to_v = Linear(context_width, width, bias=False)
        self.to_out = nn.ModuleList([Linear(width, width)])
        self.to_kv: Fused | None = None

    def pack(self) -> None:
        if self.to_kv is None:
            self.to_kv = fuse(self, "to_k", "to_v")

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """The two [N, Lk, width] tensors that `forward` attends to; context: [N, Lk, Cc]."""
        if self.to_kv is not None:
            return cast(tuple[Tensor, Tensor], self.to_kv(context))
        return self.to_k(context), self.to_v(context)

    def forward(self, x: Tensor, attended: Attended, residual: Tensor) -> Tensor:
        keys, values, *others = attended
        q = self.to_q(x)
        y = ops.attention(q, cast(Tensor, keys), cast(Tensor, values), self.heads)
        for other in others:
            y = cast(FurtherAttention, other).added_to(y, q, self.heads)
        out: Tensor = self.to_out[0](y, residual=residual)
        return out


class _GEGLU(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x, activation="geglu")


class _FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        # Number 1 is dropout, which has no tensors and does nothing here.
        self.net = nn.ModuleList(
            [_GEGLU(width, 4 * width), nn.Identity(), Linear(4 * width, width)]
        )

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        y: Tensor = self.net[2](self.net[0](x), residual=residual)
        return y


class BasicTransformerBlock(nn.Module):
    """Self-attention, attention to the text, feed-forward; each after a norm, each added to x."""

    def __init__(self, width: int, heads: int, context_width: int):
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn1 = SelfAttention(width, heads)
        self.norm2 = LayerNorm(width)
        self.attn2 = CrossAttention(width, heads, context_width)
        self.norm3 = LayerNorm(width)
        self.ff = _FeedForward(width)

    def forward(self, x: Tensor, context: Sequence[Attended]) -> Tensor:
        x = self.attn1(self.norm1(x), residual=x)
        assert self.attn2.slot is not None
        x = self.attn2(self.norm2(x), context[self.attn2.slot], residual=x)
        y: Tensor = self.ff(self.norm3(x), residual=x)
        return y


class Transformer2DModel(nn.Module):
    """`depth` transformer blocks over the pixels of a picture, between two projections.

    linear: the projections are saved as matrices (SD 2.x, SDXL), not as 1x1 convolutions (SD 1.x).
    """

    def __init__(
        self, channels: int, heads: int, depth: int, context_width: int, groups: int, linear: bool
    ):
        super().__init__()
        projection = Linear if linear else PointwiseConv2d
        self.norm = GroupNorm(groups, channels, NORM_EPS)
        self.proj_in = projection(channels, channels)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(channels, heads, context_width) for _ in range(depth)
        )
        self.proj_out = projection(channels, channels)

    def forward(self, x: Tensor, context: Sequence[Attended]) -> Tensor:
        """x: [N, H, W, C]; context: what is attended to, per slot. Returns [N, H, W, C]."""
        n, height, width, channels = x.shape
        norm = self.norm.scale_shift(x)
        tokens = self.proj_in(x.view(n, height * width, channels), **norm)
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        y = self.proj_out(tokens, residual=x.view(n, height * width, channels))
        return y.view(n, height, width, channels)


class PictureAttention(SelfAttention):
    """Self-attention over the pixels of a picture, added to it (autoencoder, UNet2DModel).

    groups: of the norm before it; None: it has none.
    """

    def __init__(self, channels: int, groups: int | None, eps: float, heads: int = 1):
        super().__init__(channels, heads, bias=True)
        self.group_norm = None if groups is None else GroupNorm(groups, channels, eps)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # of pictures, not tokens
        """[N, H, W, C] -> [N, H, W, C]."""
        tokens = x.flatten(1, 2)
        norm = {} if self.group_norm is None else self.group_norm.scale_shift(x)
        return super().forward(tokens, tokens, **norm).view(x.shape)
