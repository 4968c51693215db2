"""config.json of a classifier of noised pictures: the names of guided-diffusion's constructor."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ...weights import read_config
from ..base import raise_problems

#: Groups of every group norm there.
GROUPS = 32
#: Most residual blocks, as of U-Nets.
MAX_BLOCKS = 512
_CHANNELS = {"min": 1, "max": 8192}
_HEADS = {"min": -1, "max": 8192}


@dataclass(frozen=True)
class EncoderUNetConfig:
    """guided-diffusion's EncoderUNetModel; names and defaults are its constructor's.

    image_size: of the pictures, both sides. out_channels: how many classes. attention_resolutions:
    how many times smaller the picture is where there is attention. num_head_channels: width of a
    head; -1: `num_heads` tell it. conv_resample: halving is a convolution of stride 2, else a mean.
    resblock_updown: halving is a residual block's. use_new_attention_order: queries, keys and
    values of all heads follow each other; else those of each head. pool: how the lowest level
    becomes one vector: its mean, attention, or the means of every block through two layers.
    """

    #: They act in training, or where there are ways up.
    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset(
        {"dropout", "num_heads_upsample", "use_checkpoint", "use_fp16"}
    )

    image_size: int = field(metadata={"min": 1, "max": 8192})
    in_channels: int = field(metadata=_CHANNELS)
    model_channels: int = field(metadata={"min": 2, "max": 8192})
    out_channels: int = field(metadata={"min": 1, "max": 1 << 17})
    num_res_blocks: int = field(metadata={"min": 1, "max": 32})
    attention_resolutions: tuple[int, ...] = field(
        metadata={"min": 1, "max": 1 << 16, "max_items": 16}
    )
    channel_mult: tuple[float, ...] = field(
        default=(1, 2, 4, 8), metadata={"min": 0, "max": 1024, "max_items": 16}
    )
    conv_resample: bool = True
    dims: int = field(default=2, metadata={"min": 2, "max": 2})
    num_heads: int = field(default=1, metadata=_HEADS)
    num_head_channels: int = field(default=-1, metadata=_HEADS)
    use_scale_shift_norm: bool = False
    resblock_updown: bool = False
    use_new_attention_order: bool = False
    pool: Literal["adaptive", "attention", "spatial", "spatial_v2"] = "adaptive"

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "EncoderUNetConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        config: EncoderUNetConfig = read_config(cls, d, where)
        return config

    def __post_init__(self) -> None:
        problems = []
        if not self.channel_mult:
            raise ValueError("channel_mult is empty")
        if len(self.channel_mult) * (self.num_res_blocks + 1) > MAX_BLOCKS:
            problems.append(f"more than {MAX_BLOCKS} residual blocks in all")
        for level, width in enumerate(self.widths):
            if width < GROUPS or width % GROUPS:
                problems.append(
                    f"channel_mult[{level}]: {width} channels, expected a multiple of the norms'"
                    f" {GROUPS} groups"
                )
            elif self._attends(level) and width % self._per_head(width):
                problems.append(
                    f"channel_mult[{level}]: {width} channels for heads of another"
                    " width: expected a multiple"
                )
        if self.num_head_channels == 0 or (self.num_head_channels < 0 and self.num_heads < 1):
            problems.append("num_heads, num_head_channels: expected one of them to be positive")
        if self.pool == "attention" and self.num_head_channels < 1:
            problems.append("num_head_channels: expected the width of a head for pool 'attention'")
        if self.pool == "attention" and self.image_size % (1 << (len(self.channel_mult) - 1)):
            problems.append(
                f"image_size {self.image_size} cannot be halved {len(self.channel_mult) - 1} times,"
                " which pool 'attention' expects"
            )
        if self.image_size >> (len(self.channel_mult) - 1) < 1:
            problems.append(f"image_size {self.image_size} is too small to be halved so often")
        raise_problems(problems)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(int(mult * self.model_channels) for mult in self.channel_mult)

    def heads(self, width: int) -> int:
        """Of attention over so many channels."""
        return width // self._per_head(width)

    def _per_head(self, width: int) -> int:
        if self.num_head_channels > 0:
            return self.num_head_channels
        heads = max(self.num_heads, 1)
        return width // heads if width % heads == 0 else width + 1

    def _attends(self, level: int) -> bool:
        return level == len(self.channel_mult) - 1 or 1 << level in self.attention_resolutions
