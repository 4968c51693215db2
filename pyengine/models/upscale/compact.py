"""SRVGGNetCompact: Real-ESRGAN's small upscaler, convolutions in a row and a pixel shuffle.

Wang et al. 2021, arXiv:2107.10833. Tensors' names are BasicSR's.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ...layers import Conv2d
from ...weights import read_config
from .base import Upscaler
from .pixels import nearest, pixel_shuffle


def _bounds(low: int, high: int) -> dict[str, int]:
    return {"min": low, "max": high}


@dataclass(frozen=True)
class CompactConfig:
    """config.json; names and defaults are those of BasicSR's constructor."""

    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset()

    model_type: Literal["srvgg_compact"] = "srvgg_compact"
    num_in_ch: Literal[3] = 3
    num_out_ch: Literal[3] = 3
    num_feat: int = field(default=64, metadata=_bounds(1, 1024))
    num_conv: int = field(default=16, metadata=_bounds(0, 256))
    upscale: int = field(default=4, metadata=_bounds(1, 16))
    act_type: Literal["prelu"] = "prelu"

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "CompactConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)


class _PReLU(nn.Module):
    """A slope below zero for each channel; the convolution before it applies it to its sums."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, device="meta"), requires_grad=False)


class SRVGGNetCompact(Upscaler):
    """Pictures [N, 3, H, W] in 0..1 to [N, 3, H * upscale, W * upscale]."""

    config_class = CompactConfig
    hides_infinity = True

    def __init__(self, config: CompactConfig):
        super().__init__(config)
        c = config
        layers: list[nn.Module] = [Conv2d(c.num_in_ch, c.num_feat), _PReLU(c.num_feat)]
        for _ in range(c.num_conv):
            layers += [Conv2d(c.num_feat, c.num_feat), _PReLU(c.num_feat)]
        layers.append(Conv2d(c.num_feat, c.num_out_ch * c.upscale**2))
        self.body = nn.ModuleList(layers)

    @property
    def scale(self) -> int:
        found: int = self.config.upscale
        return found

    @property
    def reach(self) -> int:
        found: int = self.config.num_conv + 2
        return found

    def _enlarge(self, x: Tensor) -> Tensor:
        y = x
        *pairs, last = self.body
        for convolution, activation in zip(pairs[::2], pairs[1::2], strict=True):
            y = convolution(y, slopes=activation.weight)
        y = last(y)
        return pixel_shuffle(y, self.scale).add_(nearest(x, self.scale))
