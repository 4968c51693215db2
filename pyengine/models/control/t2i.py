"""T2I-Adapter: a small network that shows a U-Net's way down a picture, the same in every step.

Mou et al. 2023, arXiv:2302.08453.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import RequestError
from ...guard import inference
from ...layers import Conv2d, PointwiseConv2d
from ...weights import read_config
from ..base import Model, raise_problems, to_nchw

_CHANNELS = {"min": 1, "max": 8192, "max_items": 8}
Kind = Literal["full_adapter", "full_adapter_xl", "light_adapter"]


@dataclass(frozen=True)
class T2IAdapterConfig:
    """A diffusers T2IAdapter config; names and defaults are diffusers'.

    channels: of the results. downscale_factor: pixels along each side that become one of the first
    activations.
    """

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("T2IAdapter",)

    in_channels: int = field(default=3, metadata={"min": 1, "max": 64})
    channels: tuple[int, ...] = field(default=(320, 640, 1280, 1280), metadata=_CHANNELS)
    num_res_blocks: int = field(default=2, metadata={"min": 1, "max": 32})
    downscale_factor: int = field(default=8, metadata={"min": 1, "max": 64})
    adapter_type: Kind = "full_adapter"

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "T2IAdapterConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        problems = []
        if not self.channels:
            problems.append("channels is empty")
        if self.adapter_type == "light_adapter" and min(self.channels, default=4) < 4:
            problems.append("channels: expected at least 4 each, a quarter of which a block has")
        if self.adapter_type == "full_adapter_xl":
            problems += [
                f"channels[{i}] is {self.channels[i]}, expected {self.channels[i - 1]}: only the"
                " second and third block change the width"
                for i in range(3, len(self.channels))
                if self.channels[i] != self.channels[i - 1]
            ]
        raise_problems(problems)

    @property
    def total_downscale_factor(self) -> int:
        """Of the smallest result: sides of pictures that are multiples of it suit best."""
        steps = {"full_adapter": len(self.channels) - 1, "full_adapter_xl": 1}
        return int(self.downscale_factor * 2 ** steps.get(self.adapter_type, len(self.channels)))


def _relu(x: Tensor) -> Tensor:
    return torch.clamp(x, min=0)


def _halved(x: Tensor) -> Tensor:
    """The mean of every 2x2 pixels of [N, H, W, C]; of what there is, at an odd end."""
    nchw = x.permute(0, 3, 1, 2).contiguous()
    # Picture by picture: a row's bits do not depend on the others.
    rows = [F.avg_pool2d(row[None], 2, 2, ceil_mode=True) for row in nchw]
    return torch.cat(rows).permute(0, 2, 3, 1).contiguous()


class _Residual(nn.Module):
    """x + block2(ReLU(block1(x)))."""

    def __init__(self, channels: int, pointwise: bool):
        super().__init__()
        self.block1 = Conv2d(channels, channels)
        self.block2 = (
            PointwiseConv2d(channels, channels) if pointwise else Conv2d(channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block2(_relu(self.block1(x)), residual=x)
        return y


class _Block(nn.Module):
    """Halving, a projection to another width, residual blocks; of a light adapter these are
    a quarter as wide as its result.
    """

    def __init__(self, in_channels: int, channels: int, count: int, down: bool, light: bool):
        super().__init__()
        self.down = down
        width = channels // 4 if light else channels
        self.in_conv = (
            PointwiseConv2d(in_channels, width) if light or in_channels != channels else None
        )
        self.resnets = nn.ModuleList(_Residual(width, pointwise=not light) for _ in range(count))
        self.out_conv = PointwiseConv2d(width, channels) if light else None

    def forward(self, x: Tensor) -> Tensor:
        if self.down:
            x = _halved(x)
        if self.in_conv is not None:
            x = self.in_conv(x)
        for resnet in self.resnets:
            x = resnet(x)
        return x if self.out_conv is None else self.out_conv(x)


class _Adapter(nn.Module):
    def __init__(self, c: T2IAdapterConfig):
        super().__init__()
        self.factor = c.downscale_factor
        channels, count = c.channels, c.num_res_blocks
        unshuffled = c.in_channels * c.downscale_factor**2
        light = c.adapter_type == "light_adapter"
        self.conv_in = None if light else Conv2d(unshuffled, channels[0])
        if light:
            pairs = [(unshuffled, channels[0]), *pairwise(channels)]
            pairs.append((channels[-1], channels[-1]))
            downs = [i > 0 for i in range(len(pairs))]
        elif c.adapter_type == "full_adapter":
            pairs = [(channels[0], channels[0]), *pairwise(channels)]
            downs = [i > 0 for i in range(len(pairs))]
        else:
            # The second and third block go from one width to the next, the third halves as well.
            pairs = [(channels[i - (i in (1, 2))], channels[i]) for i in range(len(channels))]
            downs = [i == 2 for i in range(len(pairs))]
        self.body = nn.ModuleList(
            _Block(before, after, count, down, light)
            for (before, after), down in zip(pairs, downs, strict=True)
        )

    def forward(self, picture: Tensor) -> list[Tensor]:
        """[N, C, H, W] -> [N, h, w, c] of each block."""
        x = F.pixel_unshuffle(picture, self.factor).permute(0, 2, 3, 1).contiguous()
        if self.conv_in is not None:
            x = self.conv_in(x)
        results = []
        for block in self.body:
            x = block(x)
            results.append(x)
        return results


class T2IAdapter(Model):
    """diffusers' T2IAdapter: full, full for SDXL, and light."""

    config_class = T2IAdapterConfig
    hides_infinity = True

    def __init__(self, config: T2IAdapterConfig):
        super().__init__(config)
        self.adapter = _Adapter(config)

    @inference
    def features(self, picture: Tensor) -> tuple[Tensor, ...]:
        """What is added on the U-Net's way down.

        Args:
            picture: [N, in_channels, H, W] in [0, 1].

        Returns:
            [N, h, w, C] each.

        Raises:
            RequestError: for other shapes.
        """
        c: T2IAdapterConfig = self.config
        fits = picture.dim() == 4 and picture.shape[1] == c.in_channels
        if not fits or any(n < 1 or n % c.downscale_factor for n in picture.shape[2:]):
            raise RequestError(
                f"image: expected [N, {c.in_channels}, H, W] with multiples of"
                f" {c.downscale_factor}, got {list(picture.shape)}"
            )
        with self.arena.use():
            made = self.adapter(picture.to(device=self.device, dtype=self.dtype).contiguous())
            return tuple(y.clone() for y in made)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, C, h, w] each, as diffusers has them; x: as `features` takes it."""
        return [to_nchw(y) for y in self.features(x)]

    @property
    def downscale_factor(self) -> int:
        return int(self.config.downscale_factor)

    @property
    def total_downscale_factor(self) -> int:
        return int(self.config.total_downscale_factor)


def weighted(features: Sequence[tuple[Tensor, ...]], scales: Sequence[float]) -> list[Tensor]:
    """The sum of several adapters' features, each by its scale. Raises RequestError where they
    have not the same shapes.
    """
    total = [y * scales[0] for y in features[0]]
    for own, scale in zip(features[1:], scales[1:], strict=True):
        if [y.shape for y in own] != [y.shape for y in total]:
            raise RequestError("adapter: expected adapters whose results have the same shapes")
        total = [a + b * scale for a, b in zip(total, own, strict=True)]
    return total
