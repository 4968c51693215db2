"""Residual blocks and the layers between resolutions, shared by the U-Net and the autoencoder.

Pictures are [N, H, W, C]. He et al. 2016, arXiv:1512.03385; Ho et al. 2020, arXiv:2006.11239.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from ...layers import Conv2d, GroupNorm, Linear, PointwiseConv2d
from ...ops._moves import enlarged, halved
from ...ops._moves import modulated as _modulated


class ResnetBlock2D(nn.Module):
    """conv(SiLU(norm(conv(SiLU(norm(x))) + time))) + x, in two passes over each activation.

    A skip comes as a second input x2, side by side with x in C; it is never concatenated.
    time_scale_shift: the time embedding scales and shifts what the second norm gives, instead of
    being added before it (diffusers' resnet_time_scale_shift "scale_shift"; Nichol & Dhariwal 2021,
    arXiv:2102.09672). resample: the block also halves (mean of 2x2) or doubles (nearest) the size,
    of both x and the first convolution's input.
    """

    #: Which of the U-Net's time projections is this block's; the U-Net numbers them.
    slot: int | None = None
    #: Between a norm and its convolution, as ops.conv2d's input_activation.
    activation: Literal["silu", "gelu"] = "silu"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int,
        eps: float,
        time_dim: int | None,
        *,
        time_scale_shift: bool = False,
        resample: Literal["down", "up"] | None = None,
    ):
        super().__init__()
        self.time_scale_shift, self.resample = time_scale_shift, resample
        self.norm1 = GroupNorm(groups, in_channels, eps)
        self.conv1 = Conv2d(in_channels, out_channels)
        width = 2 * out_channels if time_scale_shift else out_channels
        self.time_emb_proj = Linear(time_dim, width) if time_dim is not None else None
        self.norm2 = GroupNorm(groups, out_channels, eps)
        self.conv2 = Conv2d(out_channels, out_channels)
        self.conv_shortcut = (
            PointwiseConv2d(in_channels, out_channels) if in_channels != out_channels else None
        )

    def embed_time(self, embedding: Tensor) -> Tensor:
        """What the block is told of a time, [..., Cout] or twice that, from [..., time_dim]."""
        assert self.time_emb_proj is not None
        return self.time_emb_proj(embedding, silu=True)

    def forward(
        self,
        x: Tensor,
        x2: Tensor | None = None,
        *,
        time: Sequence[Tensor] | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """x: [N, H, W, C], x2: [N, H, W, C2]; time: [N, Cout] per slot, twice as wide with
        time_scale_shift. size: of the result, of a block that enlarges. Returns [N, H', W', Cout].
        """
        own = None
        if time is not None:
            assert self.slot is not None
            own = time[self.slot]
        channel_add = None if self.time_scale_shift else own
        if self.resample is None:
            h = self.conv1(
                x,
                x2=x2,
                **self.norm1.scale_shift(x, x2),
                input_activation=self.activation,
                channel_add=channel_add,
            )
        elif self.resample == "down":
            x, h = halved(x), halved(self._activated(x))
            h = self.conv1(h, channel_add=channel_add)
        else:
            x, h = self._enlarged(x, size, channel_add)
        inner = self.norm2.scale_shift(h)
        if self.time_scale_shift and own is not None:
            inner = modulated(inner, own)
        if self.conv_shortcut is None:
            return self.conv2(h, **inner, input_activation=self.activation, residual=x)
        # The shortcut last: h is gone by then, 134 MB at the end of a decoder to 512x512.
        h = self.conv2(h, **inner, input_activation=self.activation)
        return self.conv_shortcut(x, x2, residual=h)

    def _activated(self, x: Tensor) -> Tensor:
        """The first norm of x, activated, in a pass of its own."""
        return self.norm1(x, silu=True)

    def _enlarged(
        self, x: Tensor, size: tuple[int, int] | None, channel_add: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(x, the first convolution's result), of `size` or twice as large as x.

        Norm and activation are the same before and after nearest-neighbour enlargement, to the bit.
        """
        around = {
            **self.norm1.scale_shift(x),
            "input_activation": self.activation,
            "channel_add": channel_add,
        }
        height, width = x.shape[1:3]
        twice = 2 * height, 2 * width
        larger = enlarged(x, size or twice)
        if size in (None, twice):
            return larger, self.conv1(x, upsample=True, **around)
        return larger, self.conv1(larger, **around)


def modulated(norm: dict[str, Tensor], time: Tensor) -> dict[str, Tensor]:
    """norm(h) * (1 + scale) + shift as one scale and shift; time: [N, 2 C], scale beside shift."""
    scale, shift = _modulated(norm["scale"], norm["shift"], time)
    return {"scale": scale, "shift": shift}


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
        return self.conv(enlarged(x, size))
