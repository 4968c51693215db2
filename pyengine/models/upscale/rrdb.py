"""RRDBNet: ESRGAN's and Real-ESRGAN's upscaler, residual blocks of dense blocks.

Wang et al. 2018, arXiv:1809.00219; Wang et al. 2021, arXiv:2107.10833. Names of tensors are
BasicSR's.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ...layers import Conv2d
from ...weights import read_config
from .base import Upscaler
from .pixels import joined, pixel_unshuffle

#: Slope of the activations below zero, and what a block's output is multiplied by.
SLOPE, SHARE = 0.2, 0.2
#: Convolutions of a dense block, and dense blocks of a residual one.
CONVOLUTIONS, BLOCKS = 5, 3


def _bounds(low: int, high: int) -> dict[str, int]:
    return {"min": low, "max": high}


@dataclass(frozen=True)
class RRDBConfig:
    """config.json; names and defaults are those of BasicSR's constructor.

    num_upsample: how often the features' sides are doubled; BasicSR always does it twice, and
    for a scale of 2 or 1 begins with pixels put into channels.
    """

    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset()

    model_type: Literal["rrdbnet"] = "rrdbnet"
    num_in_ch: Literal[3] = 3
    num_out_ch: Literal[3] = 3
    scale: int = field(default=4, metadata=_bounds(1, 16))
    num_feat: int = field(default=64, metadata=_bounds(1, 1024))
    num_block: int = field(default=23, metadata=_bounds(1, 256))
    num_grow_ch: int = field(default=32, metadata=_bounds(1, 1024))
    num_upsample: int = field(default=2, metadata=_bounds(0, 4))

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "RRDBConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        if 2**self.num_upsample not in (self.scale * f for f in (1, 2, 4)):
            raise ValueError(
                f"scale: expected 1, a half or a quarter of 2^num_upsample, {2**self.num_upsample},"
                f" found {self.scale}"
            )

    @property
    def unshuffle(self) -> int:
        """Pixels along each side that become channels before the first convolution."""
        return (1 << self.num_upsample) // self.scale


def _leaky(convolution: Any, x: Tensor, **around: Any) -> Tensor:
    """The convolution's sums where they are positive, SLOPE times them elsewhere."""
    slopes = torch.full((convolution.out_channels,), SLOPE, device=x.device)
    made: Tensor = convolution(x, slopes=slopes, **around)
    return made


class _DenseBlock(nn.Module):
    def __init__(self, c: RRDBConfig):
        super().__init__()
        for i in range(CONVOLUTIONS):
            width = c.num_feat if i == CONVOLUTIONS - 1 else c.num_grow_ch
            self.add_module(f"conv{i + 1}", Conv2d(c.num_feat + i * c.num_grow_ch, width))

    def forward(self, x: Tensor) -> Tensor:
        grown: list[Tensor] = []
        for i in range(CONVOLUTIONS - 1):
            grown.append(_leaky(self.get_submodule(f"conv{i + 1}"), x, x2=joined(grown)))
        y = self.get_submodule(f"conv{CONVOLUTIONS}")(x, x2=joined(grown))
        return torch.add(x, y, alpha=SHARE)


class _ResidualBlock(nn.Module):
    def __init__(self, c: RRDBConfig):
        super().__init__()
        for i in range(BLOCKS):
            self.add_module(f"rdb{i + 1}", _DenseBlock(c))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(BLOCKS):
            y = self.get_submodule(f"rdb{i + 1}")(y)
        return torch.add(x, y, alpha=SHARE)


class RRDBNet(Upscaler):
    """Pictures [N, 3, H, W] in 0..1 to [N, 3, H * scale, W * scale]."""

    config_class = RRDBConfig
    hides_infinity = True

    def __init__(self, config: RRDBConfig):
        super().__init__(config)
        c = config
        self.conv_first = Conv2d(c.num_in_ch * c.unshuffle**2, c.num_feat)
        self.body = nn.ModuleList(_ResidualBlock(c) for _ in range(c.num_block))
        self.conv_body = Conv2d(c.num_feat, c.num_feat)
        for i in range(c.num_upsample):
            self.add_module(f"conv_up{i + 1}", Conv2d(c.num_feat, c.num_feat))
        self.conv_hr = Conv2d(c.num_feat, c.num_feat)
        self.conv_last = Conv2d(c.num_feat, c.num_out_ch)

    @property
    def scale(self) -> int:
        found: int = self.config.scale
        return found

    @property
    def multiple(self) -> int:
        found: int = self.config.unshuffle
        return found

    @property
    def reach(self) -> int:
        """A bound: a pixel of each convolution at the size of the features."""
        c = self.config
        convolutions = 2 + BLOCKS * CONVOLUTIONS * c.num_block
        # Those after the first doubling reach a half, a quarter...: less than 3 together.
        found: int = (convolutions + 3) * c.unshuffle
        return found

    def _enlarge(self, x: Tensor) -> Tensor:
        first = self.conv_first(pixel_unshuffle(x, self.config.unshuffle))
        y = first
        for block in self.body:
            y = block(y)
        y = self.conv_body(y, residual=first)
        for i in range(self.config.num_upsample):
            y = _leaky(self.get_submodule(f"conv_up{i + 1}"), y, upsample=True)
        made: Tensor = self.conv_last(_leaky(self.conv_hr, y))
        return made
