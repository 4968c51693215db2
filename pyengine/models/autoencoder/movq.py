"""The decoder of Kandinsky's MoVQ: every norm is scaled and shifted by the code, pixel by pixel.

Zheng et al. 2022, arXiv:2209.09002.
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ...layers import Conv2d, GroupNorm, PointwiseConv2d
from ..blocks.resnet import Upsample2D
from ..blocks.transformer import SelfAttention
from .kl import EPS

if TYPE_CHECKING:
    from .vq import VQConfig

#: diffusers' spatial norm has 32 groups, whatever the config says.
GROUPS = 32


class SpatialNorm(nn.Module):
    """norm(x) * conv_y(code) + conv_b(code), the code enlarged to x by nearest neighbour.

    Both convolutions are 1x1, so they come before the enlargement: 64 times fewer pixels at the
    end of a decoder. No op scales by pixel: that is plain torch, of one product and one sum, whose
    bits depend on nothing beside a pixel.
    """

    def __init__(self, channels: int, code_channels: int):
        super().__init__()
        self.norm_layer = GroupNorm(GROUPS, channels, EPS)
        self.conv_y = PointwiseConv2d(code_channels, channels)
        self.conv_b = PointwiseConv2d(code_channels, channels)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """x: [N, k h, k w, C]; code: [N, h, w, code_channels]."""
        n, height, width = code.shape[:3]
        y: Tensor = self.norm_layer(x)
        times = y.shape[1] // height
        blocks = y.view(n, height, times, width, times, y.shape[3])
        scale, shift = (conv(code)[:, :, None, :, None] for conv in (self.conv_y, self.conv_b))
        blocks.mul_(scale).add_(shift)
        return y


class _Resnet(nn.Module):
    """A residual block whose norms are told the code."""

    def __init__(self, in_channels: int, out_channels: int, code_channels: int):
        super().__init__()
        self.norm1 = SpatialNorm(in_channels, code_channels)
        self.conv1 = Conv2d(in_channels, out_channels)
        self.norm2 = SpatialNorm(out_channels, code_channels)
        self.conv2 = Conv2d(out_channels, out_channels)
        same = in_channels == out_channels
        self.conv_shortcut = None if same else PointwiseConv2d(in_channels, out_channels)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        h = self.conv1(self.norm1(x, code), silu=True)
        h = self.norm2(h, code)
        if self.conv_shortcut is None:
            y: Tensor = self.conv2(h, silu=True, residual=x)
            return y
        y = self.conv_shortcut(x, residual=self.conv2(h, silu=True))
        return y


class _Attention(SelfAttention):
    """Self-attention with one head over the pixels, after a norm that is told the code."""

    def __init__(self, channels: int, code_channels: int):
        super().__init__(channels, heads=1, bias=True)
        self.spatial_norm = SpatialNorm(channels, code_channels)

    def over(self, x: Tensor, code: Tensor) -> Tensor:
        normed = self.spatial_norm(x, code).flatten(1, 2)
        y: Tensor = super().forward(normed, x.flatten(1, 2))
        return y.view(x.shape)


class _MidBlock(nn.Module):
    def __init__(self, c: "VQConfig"):
        super().__init__()
        channels, code = c.block_out_channels[-1], c.latent_channels
        self.resnets = nn.ModuleList(_Resnet(channels, channels, code) for _ in range(2))
        count = 1 if c.mid_block_add_attention else 0
        self.attentions = nn.ModuleList(_Attention(channels, code) for _ in range(count))

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        x = self.resnets[0](x, code)
        attention: Any
        for attention in self.attentions:
            x = attention.over(x, code)
        y: Tensor = self.resnets[1](x, code)
        return y


class _UpBlock(nn.Module):
    def __init__(self, c: "VQConfig", level: int, kind: str):
        super().__init__()
        channels, code = c.block_out_channels[level], c.latent_channels
        first = c.block_out_channels[min(level + 1, len(c.block_out_channels) - 1)]
        widths = [first, *[channels] * c.layers_per_block]
        self.resnets = nn.ModuleList(_Resnet(width, channels, code) for width in widths)
        attends = kind == "AttnUpDecoderBlock2D"
        self.attentions = nn.ModuleList(
            _Attention(channels, code) for _ in range(len(widths) if attends else 0)
        )
        self.upsamplers = nn.ModuleList([Upsample2D(channels)] if level else [])

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        for i, resnet in enumerate(self.resnets):
            x = resnet(x, code)
            if i < len(self.attentions):
                attention: Any = self.attentions[i]
                x = attention.over(x, code)
        for upsampler in self.upsamplers:
            x = upsampler(x)
        return x


class SpatialDecoder(nn.Module):
    """VQModel's decoder with norm_type "spatial"."""

    def __init__(self, c: "VQConfig"):
        super().__init__()
        channels = c.block_out_channels
        self.conv_in = Conv2d(c.latent_channels, channels[-1])
        self.mid_block = _MidBlock(c)
        levels = reversed(range(len(channels)))
        self.up_blocks = nn.ModuleList(
            _UpBlock(c, level, kind) for level, kind in zip(levels, c.up_block_types, strict=True)
        )
        self.conv_norm_out = SpatialNorm(channels[0], c.latent_channels)
        self.conv_out = Conv2d(channels[0], c.out_channels)

    def forward(self, z: Tensor, code: Tensor) -> Tensor:
        """z, code: [N, h, w, latent_channels], the code after its convolution and before it."""
        x = self.mid_block(self.conv_in(z), code)
        for block in self.up_blocks:
            x = block(x, code)
        y: Tensor = self.conv_out(self.conv_norm_out(x, code), silu=True)
        return y
