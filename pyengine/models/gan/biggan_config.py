"""config.json of BigGAN-deep."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from ...weights import read_config
from ..base import raise_problems

#: Pixels along a side, and channels in units of channel_width, of what the latents become first.
FIRST_SIDE, FIRST_WIDTH = 4, 16
#: What attention's queries and keys, and a block's inner convolutions, are narrower by.
QUERY_SHARE, BLOCK_SHARE = 8, 4


def _bounds(low: float, high: float) -> dict[str, float]:
    return {"min": low, "max": high}


_LAYERS = (
    (False, 16, 16), (True, 16, 16), (False, 16, 16), (True, 16, 8), (False, 8, 8), (True, 8, 4),
    (False, 4, 4), (True, 4, 2), (False, 2, 2), (True, 2, 1),
)  # fmt: skip


@dataclass(frozen=True)
class BigGANConfig:
    """config.json; names and defaults are pytorch-pretrained-biggan's.

    layers: (whether it doubles the sides, input channels, output channels, both in units of
    channel_width) of each block. attention_layer_position: of the block that attention comes
    before. n_stats: for so many truncations from 0 to 1 there are statistics of batch norm.
    """

    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset()

    output_dim: int = field(default=128, metadata=_bounds(8, 4096))
    z_dim: int = field(default=128, metadata=_bounds(1, 4096))
    class_embed_dim: int = field(default=128, metadata=_bounds(1, 4096))
    channel_width: int = field(default=128, metadata=_bounds(1, 1024))
    num_classes: int = field(default=1000, metadata=_bounds(1, 1 << 17))
    layers: tuple[tuple[bool, int, int], ...] = field(
        default=_LAYERS, metadata={"min": 0, "max": 64, "max_items": 64}
    )
    attention_layer_position: int = field(default=8, metadata=_bounds(0, 64))
    eps: float = field(default=1e-4, metadata=_bounds(0, 1))
    n_stats: int = field(default=51, metadata=_bounds(2, 4096))

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "BigGANConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        problems = []
        width = FIRST_WIDTH
        for i, (_, before, after) in enumerate(self.layers):
            if before != width:
                problems.append(
                    f"layers: {i} reads {before} channels, what comes before has {width}"
                )
            if after not in (before, before // 2) or after < 1:
                problems.append(
                    f"layers: {i} has {after} channels, expected {before} or half of it"
                )
            width = after
        if width != 1:
            problems.append(f"layers: the last has {width} channels, expected 1")
        if sum(up for up, *_ in self.layers) > 10:
            problems.append("layers: expected at most 10 that double the sides")
        elif self.output_dim != self.sample_size:
            problems.append(f"output_dim is {self.output_dim}, but layers make {self.sample_size}")
        if self.class_embed_dim != self.z_dim:
            problems.append(
                f"class_embed_dim is {self.class_embed_dim}, expected z_dim, {self.z_dim}"
            )
        if self.channel_width % BLOCK_SHARE:
            problems.append(
                f"channel_width is {self.channel_width}, expected a multiple of {BLOCK_SHARE}"
            )
        if self.attention_width is not None and self.attention_width % QUERY_SHARE:
            problems.append(
                f"attention_layer_position: {self.attention_width} channels there,"
                f" expected a multiple of {QUERY_SHARE}"
            )
        raise_problems(problems)

    @property
    def sample_size(self) -> int:
        """Pixels along a side."""
        return FIRST_SIDE << sum(up for up, *_ in self.layers)

    @property
    def attention_width(self) -> int | None:
        """Channels of the attention; None where there is none."""
        if self.attention_layer_position >= len(self.layers):
            return None
        return self.channel_width * self.layers[self.attention_layer_position][1]
