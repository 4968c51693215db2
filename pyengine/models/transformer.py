"""Attention over pictures: the U-Net's transformer blocks, and the autoencoder's single head.

Vaswani et al. 2017, arXiv:1706.03762; Rombach et al. 2022, arXiv:2112.10752, appendix E.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from .. import ops
from ..layers import GroupNorm, LayerNorm, Linear, PointwiseConv2d

#: What diffusers gives the group norm before a transformer, whatever the config says.
NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head attention of tokens [N, L, width] to themselves or to a context."""

    def __init__(self, width: int, heads: int, context_width: int | None = None):
        super().__init__()
        self.heads = heads
        self.to_q = Linear(width, width, bias=False)
        self.to_k = Linear(context_width or width, width, bias=False)
        self.to_v = Linear(context_width or width, width, bias=False)
        self.to_out = nn.ModuleList([Linear(width, width)])

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """The two [N, Lk, width] tensors that `forward` attends to; context: [N, Lk, Cc]."""
        return self.to_k(context), self.to_v(context)

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor], residual: Tensor) -> Tensor:
        y = ops.attention(self.to_q(x), *keys_values, self.heads)
        return self.to_out[0](y, residual=residual)


class CrossAttention(Attention):
    """Attention to the text. Its keys and values are made once per prompt: see TextContext."""

    #: Which of the context's keys and values are this layer's; the U-Net numbers them.
    slot = -1


class _GEGLU(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = Linear(width, 2 * inner)

    def forward(self, x: Tensor) -> Tensor:
        return ops.geglu(self.proj(x))


class _FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        # Number 1 is dropout, which has no tensors and does nothing here.
        self.net = nn.ModuleList(
            [_GEGLU(width, 4 * width), nn.Identity(), Linear(4 * width, width)]
        )

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.net[2](self.net[0](x), residual=residual)


class BasicTransformerBlock(nn.Module):
    """Self-attention, attention to the text, feed-forward; each after a norm, each added to x."""

    def __init__(self, width: int, heads: int, context_width: int):
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn1 = Attention(width, heads)
        self.norm2 = LayerNorm(width)
        self.attn2 = CrossAttention(width, heads, context_width)
        self.norm3 = LayerNorm(width)
        self.ff = _FeedForward(width)

    def forward(self, x: Tensor, context: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        h = self.norm1(x)
        x = self.attn1(h, self.attn1.keys_values(h), residual=x)
        x = self.attn2(self.norm2(x), context[self.attn2.slot], residual=x)
        return self.ff(self.norm3(x), residual=x)


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

    def forward(self, x: Tensor, context: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """x: [N, H, W, C]; context: keys and values per slot. Returns [N, H, W, C]."""
        n, height, width, channels = x.shape
        tokens = self.proj_in(self.norm(x).view(n, height * width, channels))
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        y = self.proj_out(tokens, residual=x.view(n, height * width, channels))
        return y.view(n, height, width, channels)


class PictureAttention(nn.Module):
    """Self-attention with one head over the pixels of a picture, added to it (autoencoder)."""

    def __init__(self, channels: int, groups: int, eps: float):
        super().__init__()
        self.group_norm = GroupNorm(groups, channels, eps)
        self.to_q = Linear(channels, channels)
        self.to_k = Linear(channels, channels)
        self.to_v = Linear(channels, channels)
        self.to_out = nn.ModuleList([Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, H, W, C]."""
        n, height, width, channels = x.shape
        h = self.group_norm(x).view(n, height * width, channels)
        y = ops.attention(self.to_q(h), self.to_k(h), self.to_v(h), 1)
        y = self.to_out[0](y, residual=x.view(n, height * width, channels))
        return y.view(n, height, width, channels)
