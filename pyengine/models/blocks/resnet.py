"""Residual blocks and the layers between resolutions, shared by the U-Net and the autoencoder.

Pictures are [N, H, W, C]. He et al. 2016, arXiv:1512.03385; Ho et al. 2020, arXiv:2006.11239.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...layers import Conv2d, GroupNorm, Linear, PointwiseConv2d


class ResnetBlock2D(nn.Module):
    """conv(SiLU(norm(conv(SiLU(norm(x))) + time))) + x, in two passes over each activation.

    A skip comes as a second input x2, side by side with x in C; it is never concatenated.
    """

    #: Which of the U-Net's time projections is this block's; the U-Net numbers them.
    slot: int | None = None

    def __init__(
        self, in_channels: int, out_channels: int, groups: int, eps: float, time_dim: int | None
    ):
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels, eps)
        self.conv1 = Conv2d(in_channels, out_channels)
        self.time_emb_proj = Linear(time_dim, out_channels) if time_dim is not None else None
        self.norm2 = GroupNorm(groups, out_channels, eps)
        self.conv2 = Conv2d(out_channels, out_channels)
        self.conv_shortcut = (
            PointwiseConv2d(in_channels, out_channels) if in_channels != out_channels else None
        )

    def forward(
        self, x: Tensor, x2: Tensor | None = None, *, time: Sequence[Tensor] | None = None
    ) -> Tensor:
        """x: [N, H, W, C], x2: [N, H, W, C2]; time: [N, Cout] per slot. Returns [N, H, W, Cout]."""
        channel_add = None if time is None else time[self.slot]
        h = self.conv1(
            x, x2=x2, **self.norm1.scale_shift(x, x2), silu=True, channel_add=channel_add
        )
        inner = self.norm2.scale_shift(h)
        if self.conv_shortcut is None:
            return self.conv2(h, **inner, silu=True, residual=x)
        # The shortcut last: h is gone by then, 134 MB at the end of a decoder to 512x512.
        h = self.conv2(h, **inner, silu=True)
        return self.conv_shortcut(x, x2, residual=h)


class Downsample2D(nn.Module):
    """A 3x3 convolution of stride 2. padding 0 means one row below and one column at the right."""

    def __init__(self, channels: int, padding: int):
        super().__init__()
        around = (0, 1, 0, 1) if padding == 0 else padding
        self.conv = Conv2d(channels, channels, stride=2, padding=around)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample2D(nn.Module):
    """Nearest-neighbour enlargement and a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = Conv2d(channels, channels)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """x: [N, H, W, C]; size: (height, width) of the result, None for twice that of x."""
        height, width = x.shape[1:3]
        if size is None or size == (2 * height, 2 * width):
            return self.conv(x, upsample=True)
        return self.conv(nearest(x, size))


def nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, H, W, C] -> [N, *size, C], each pixel from the source pixel that it falls into."""
    rows, columns = (
        torch.arange(new, device=x.device) * old // new
        for old, new in zip(x.shape[1:3], size, strict=True)
    )
    return x[:, rows][:, :, columns]
