"""Blocks in k-diffusion's arrangement: every norm is scaled and shifted by the time.

Dhariwal & Nichol 2021, arXiv:2105.05233 (adaptive group norm). Pictures are [N, H, W, C]. Names are
diffusers', whose classes begin with K.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ... import ops
from ...layers import Conv2d, Fused, GroupNorm, LayerNorm, Linear, PointwiseConv2d, fuse
from .resnet import modulated
from .transformer import Attended

#: Channels of a group of a norm; a norm of an attention has one group at least.
GROUP_SIZE = 32
ATTENTION_EPS = 1e-5
TEXT_EPS = 1e-5


class AdaGroupNorm(nn.Module):
    """A group norm without weight and bias, whose scale and shift are made of the time."""

    #: Which of the times' projections is this norm's; the U-Net numbers them.
    slot: int | None = None

    def __init__(self, time_dim: int, channels: int, groups: int, eps: float):
        super().__init__()
        self.norm = GroupNorm(groups, channels, eps, affine=False)
        self.linear = Linear(time_dim, 2 * channels)

    def embed_time(self, embedding: Tensor) -> Tensor:
        """[..., 2 C], scale beside shift, from [..., time_dim]."""
        found: Tensor = self.linear(embedding)
        return found

    def scale_shift(
        self, x: Tensor, time: Sequence[Tensor], x2: Tensor | None = None
    ) -> dict[str, Tensor]:
        """{"scale", "shift"}: [N, C] each, as Conv2d and Linear take them; time: by slot."""
        assert self.slot is not None
        return modulated(self.norm.scale_shift(x, x2), time[self.slot])


class ResnetBlockCondNorm2D(nn.Module):
    """conv(GELU(norm(conv(GELU(norm(x)))))) + shortcut(x), with an AdaGroupNorm twice."""

    def __init__(self, in_channels: int, inner: int, out_channels: int, time_dim: int, eps: float):
        super().__init__()
        self.norm1 = AdaGroupNorm(time_dim, in_channels, in_channels // GROUP_SIZE, eps)
        self.conv1 = Conv2d(in_channels, inner)
        self.norm2 = AdaGroupNorm(time_dim, inner, inner // GROUP_SIZE, eps)
        self.conv2 = Conv2d(inner, out_channels)
        self.conv_shortcut = (
            PointwiseConv2d(in_channels, out_channels, bias=False)
            if in_channels != out_channels
            else None
        )

    def forward(self, x: Tensor, time: Sequence[Tensor], x2: Tensor | None = None) -> Tensor:
        """x: [N, H, W, C], x2: a skip [N, H, W, C2] beside it; time: by slot."""
        h = self.conv1(x, x2=x2, **self.norm1.scale_shift(x, time, x2), input_activation="gelu")
        inner = self.norm2.scale_shift(h, time)
        y: Tensor
        if self.conv_shortcut is None:
            residual = x if x2 is None else torch.cat([x, x2], dim=3)
            y = self.conv2(h, **inner, input_activation="gelu", residual=residual)
            return y
        h = self.conv2(h, **inner, input_activation="gelu")
        y = self.conv_shortcut(x, x2, residual=h)
        return y


class KSelfAttention(nn.Module):
    """Attention of a picture's pixels to themselves; all projections have biases."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([Linear(width, width)])
        self.to_qkv: Fused | None = None

    def pack(self) -> None:
        if self.to_qkv is None:
            self.to_qkv = fuse(self, "to_q", "to_k", "to_v")

    def forward(self, x: Tensor, norm: dict[str, Tensor]) -> Tensor:
        """x + attention of norm(x), [N, L, width]; norm: scale and shift, as Linear takes them."""
        if self.to_qkv is not None:
            q, k, v = self.to_qkv(x, **norm)
        else:
            q, k, v = self.to_q(x, **norm), self.to_k(x, **norm), self.to_v(x, **norm)
        y: Tensor = self.to_out[0](ops.attention(q, k, v, self.heads), residual=x)
        return y


class KCrossAttention(nn.Module):
    """Attention to a text that has a norm of its own; all projections have biases."""

    #: Which of the context's keys and values are this layer's; the U-Net numbers them.
    slot: int | None = None

    def __init__(self, width: int, heads: int, context_width: int):
        super().__init__()
        self.heads, self.context_width = heads, context_width
        self.norm_cross = LayerNorm(context_width, TEXT_EPS)
        self.to_q = Linear(width, width)
        self.to_k = Linear(context_width, width)
        self.to_v = Linear(context_width, width)
        self.to_out = nn.ModuleList([Linear(width, width)])
        self.to_kv: Fused | None = None

    def pack(self) -> None:
        if self.to_kv is None:
            self.to_kv = fuse(self, "to_k", "to_v")

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """The two [N, L, width] tensors that `forward` attends to, of a text [N, L, C]."""
        context = self.norm_cross(context)
        if self.to_kv is not None:
            return cast(tuple[Tensor, Tensor], self.to_kv(context))
        return self.to_k(context), self.to_v(context)

    def forward(self, x: Tensor, attended: Attended, norm: dict[str, Tensor]) -> Tensor:
        """x + attention of norm(x) to the text, [N, L, width]."""
        keys, values = (cast(Tensor, t) for t in attended[:2])
        y: Tensor = self.to_out[0](
            ops.attention(self.to_q(x, **norm), keys, values, self.heads), residual=x
        )
        return y


class KAttentionBlock(nn.Module):
    """Attention to the picture, where there is some, then to the text, each added to x."""

    def __init__(
        self, width: int, head_dim: int, context_width: int, time_dim: int, to_itself: bool
    ):
        super().__init__()
        groups, heads = max(1, width // GROUP_SIZE), width // head_dim
        self.norm1 = self.attn1 = None
        if to_itself:
            self.norm1 = AdaGroupNorm(time_dim, width, groups, ATTENTION_EPS)
            self.attn1 = KSelfAttention(width, heads)
        self.norm2 = AdaGroupNorm(time_dim, width, groups, ATTENTION_EPS)
        self.attn2 = KCrossAttention(width, heads, context_width)

    def forward(self, x: Tensor, time: Sequence[Tensor], context: Sequence[Attended]) -> Tensor:
        """x: [N, H, W, C]; time, context: by slot."""
        if self.norm1 is not None and self.attn1 is not None:
            norm = self.norm1.scale_shift(x, time)
            x = self.attn1(x.flatten(1, 2), norm).view(x.shape)
        assert self.attn2.slot is not None
        norm = self.norm2.scale_shift(x, time)
        y: Tensor = self.attn2(x.flatten(1, 2), context[self.attn2.slot], norm)
        return y.view(x.shape)


class KLevel(nn.Module):
    """Residual blocks of one size, each followed by attention where the level has some.

    widths: (in, inner, out) of each residual block. head_dim: of attentions; None: there are none.
    """

    def __init__(
        self,
        widths: Sequence[tuple[int, int, int]],
        time_dim: int,
        eps: float,
        head_dim: int | None,
        context_width: int,
        to_itself: bool = False,
    ):
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlockCondNorm2D(*own, time_dim, eps) for own in widths)
        self.attentions = nn.ModuleList()
        if head_dim is not None:
            self.attentions.extend(
                KAttentionBlock(out, head_dim, context_width, time_dim, to_itself)
                for _, _, out in widths
            )

    def forward(
        self,
        x: Tensor,
        time: Sequence[Tensor],
        context: Sequence[Attended],
        skip: Tensor | None = None,
    ) -> Tensor:
        """x: [N, H, W, C]; skip: what lies beside the first block's input."""
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, time, skip if i == 0 else None)
            if self.attentions:
                x = self.attentions[i](x, time, context)
        return x


def halved_smoothly(x: Tensor) -> Tensor:
    """[N, H, W, C] -> [N, H / 2, W / 2, C] by the filter 1 3 3 1 along both sides; edges are
    mirrored. H and W even, at least 2.
    """
    for dim in (1, 2):
        x = _halved(x, dim)
    return x


def doubled_smoothly(x: Tensor) -> Tensor:
    """[N, H, W, C] -> [N, 2 H, 2 W, C] by the filter 1 3 3 1 along both sides; edges are mirrored.
    H and W at least 2.
    """
    for dim in (1, 2):
        x = _doubled(x, dim)
    return x


def _halved(x: Tensor, dim: int) -> Tensor:
    wide, n = x.float(), x.shape[dim] // 2
    even, odd = (wide.unflatten(dim, (n, 2)).select(dim + 1, i) for i in (0, 1))
    before = torch.cat([odd.narrow(dim, 0, 1), odd.narrow(dim, 0, n - 1)], dim)
    after = torch.cat([even.narrow(dim, 1, n - 1), even.narrow(dim, n - 1, 1)], dim)
    y: Tensor = (before + after) * 0.125 + (even + odd) * 0.375
    return y.to(x.dtype)


def _doubled(x: Tensor, dim: int) -> Tensor:
    wide, n = x.float(), x.shape[dim]
    before = torch.cat([wide.narrow(dim, 1, 1), wide.narrow(dim, 0, n - 1)], dim)
    after = torch.cat([wide.narrow(dim, 1, n - 1), wide.narrow(dim, n - 2, 1)], dim)
    both = torch.stack([wide * 0.75 + before * 0.25, wide * 0.75 + after * 0.25], dim + 1)
    y: Tensor = both.flatten(dim, dim + 1).to(x.dtype)
    return y
