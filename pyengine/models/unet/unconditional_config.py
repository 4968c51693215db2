"""config.json of a UNet2DModel: its keys, the values that we support, whether they fit together."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ...weights import read_config
from ..base import check_levels, raise_problems
from .config import MAX_RESNETS

DownType = Literal["DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"]
UpType = Literal["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"]
Sampling = Literal["conv", "resnet"]

#: What the first releases of diffusers wrote before some types of blocks.
_OLD_PREFIX = "UNetRes"

_CHANNELS = {"min": 1, "max": 8192, "max_items": 16}
_DIM = {"min": 1, "max": 65536}
_TYPES = {"max_items": 16}


@dataclass(frozen=True)
class UNet2DConfig:
    """A diffusers UNet2DModel config; names and defaults are diffusers'.

    attention_head_dim is the width of a head; None: one head. Fields that allow a single value are
    options that we do not have: any other value is an error.
    """

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("UNet2DModel",)
    #: dropout acts in training only; num_train_timesteps belongs to learned time embeddings.
    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset({"dropout", "num_train_timesteps"})

    sample_size: int | tuple[int, int] | None = field(
        default=None, metadata={"min": 1, "max": 8192}
    )
    in_channels: int = field(default=3, metadata=_CHANNELS)
    out_channels: int = field(default=3, metadata=_CHANNELS)
    center_input_sample: bool = False
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_dim: int | None = field(default=None, metadata=_DIM)
    freq_shift: float = field(default=0, metadata={"min": -64, "max": 64})
    flip_sin_to_cos: bool = True
    down_block_types: tuple[DownType, ...] = field(
        default=("DownBlock2D", *("AttnDownBlock2D",) * 3), metadata=_TYPES
    )
    mid_block_type: Literal["UNetMidBlock2D"] | None = "UNetMidBlock2D"
    up_block_types: tuple[UpType, ...] = field(
        default=(*("AttnUpBlock2D",) * 3, "UpBlock2D"), metadata=_TYPES
    )
    block_out_channels: tuple[int, ...] = field(default=(224, 448, 672, 896), metadata=_CHANNELS)
    layers_per_block: int = field(default=2, metadata={"min": 1, "max": 32})
    mid_block_scale_factor: float = field(default=1, metadata={"min": 1, "max": 1})
    downsample_padding: int = field(default=1, metadata={"min": 0, "max": 1})
    downsample_type: Sampling = "conv"
    upsample_type: Sampling = "conv"
    act_fn: Literal["silu", "swish"] = "silu"
    attention_head_dim: int | None = field(default=8, metadata={"min": 1, "max": 8192})
    norm_num_groups: int = field(default=32, metadata=_CHANNELS)
    attn_norm_num_groups: int | None = field(default=None, metadata=_CHANNELS)
    norm_eps: float = field(default=1e-5, metadata={"min": 0, "max": 1})
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    add_attention: bool = True
    class_embed_type: Literal["timestep", "identity"] | None = None
    num_class_embeds: int | None = field(default=None, metadata=_DIM)

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "UNet2DConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        types = ("down_block_types", "up_block_types")
        given = {key: _modern(value) if key in types else value for key, value in d.items()}
        config: UNet2DConfig = read_config(cls, given, where)
        return config

    def __post_init__(self) -> None:
        problems: list[str] = []
        check_levels(
            problems,
            self.levels,
            down_block_types=self.down_block_types,
            up_block_types=self.up_block_types,
        )
        if not self.block_out_channels:
            problems.append("block_out_channels is empty")
        if not problems:  # what follows indexes by level
            problems += self._size_problems()
        if self.class_embed_type is not None and self.num_class_embeds is not None:
            problems.append("class_embed_type and num_class_embeds exclude each other")
        raise_problems(problems)

    @property
    def levels(self) -> int:
        return len(self.block_out_channels)

    @property
    def time_dim(self) -> int:
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the pictures that it was trained on."""
        s = self.sample_size
        return (s, s) if isinstance(s, int) else s

    @property
    def mid_attention_groups(self) -> int | None:
        """Groups of the norm before the middle block's attention; None: it has none."""
        if self.attn_norm_num_groups is not None or self.resnet_time_scale_shift != "default":
            return self.attn_norm_num_groups
        return self.norm_num_groups

    @property
    def classes(self) -> int | None:
        """How many classes it knows; None where it is told none, or not by number."""
        return self.num_class_embeds

    def layers(self, level: int) -> int:
        return self.layers_per_block

    def heads(self, level: int) -> int:
        channels = self.block_out_channels[level]
        return channels // (self.attention_head_dim or channels)

    def down_depths(self, level: int) -> tuple[int, ...]:
        """An attention for each residual block on the way down, where the block has attention."""
        return (1,) * self.layers_per_block

    def up_depths(self, level: int) -> tuple[int, ...]:
        return (1,) * (self.layers_per_block + 1)

    def attends(self, level: int) -> bool:
        """Whether a block of this level has attention."""
        types = self.down_block_types[level], self.up_block_types[self.levels - 1 - level]
        mid = level == self.levels - 1 and self.mid_block_type is not None and self.add_attention
        return mid or any(kind.startswith("Attn") for kind in types)

    def _size_problems(self) -> list[str]:
        problems = []
        if self.levels * (2 * self.layers_per_block + 3) > MAX_RESNETS:
            problems.append(f"more than {MAX_RESNETS} residual blocks in all")
        groups = {"norm_num_groups": self.norm_num_groups}
        for level, channels in enumerate(self.block_out_channels):
            if level == self.levels - 1 and self.mid_attention_groups is not None:
                groups["attn_norm_num_groups"] = self.mid_attention_groups
            problems += [
                f"block_out_channels[{level}] {channels} is no multiple of {name} {number}"
                for name, number in groups.items()
                if channels % number
            ]
            width = self.attention_head_dim
            if width is not None and self.attends(level) and channels % width:
                problems.append(
                    f"block_out_channels[{level}] {channels} is no multiple of"
                    f" attention_head_dim {width}"
                )
        if self.block_out_channels[0] // 2 <= max(self.freq_shift, 0):
            problems.append(
                f"block_out_channels[0] {self.block_out_channels[0]} is too small for the time"
                f" embedding, with freq_shift {self.freq_shift}"
            )
        return problems


def _modern(types: Any) -> Any:
    """Types of blocks without the prefix of old; anything else as it is."""
    if not isinstance(types, (list, tuple)):
        return types
    return [t.removeprefix(_OLD_PREFIX) if isinstance(t, str) else t for t in types]
