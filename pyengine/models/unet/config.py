"""unet/config.json: its keys, the values that we support, and whether they fit together."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

from ...weights import read_config
from ..base import check_levels, raise_problems
from .config_simple import simple_problems

T = TypeVar("T")

DownType = Literal[
    "DownBlock2D", "CrossAttnDownBlock2D", "ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"
]
UpType = Literal[
    "UpBlock2D", "CrossAttnUpBlock2D", "ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D"
]
MidType = Literal["UNetMidBlock2D", "UNetMidBlock2DCrossAttn", "UNetMidBlock2DSimpleCrossAttn"]
Depth = int | tuple[int, ...]

#: SDXL has 70 transformer blocks and 17 residual ones. Even without weights each takes time and
#: memory to build; these are built in half a second.
MAX_TRANSFORMERS = 512
MAX_RESNETS = 256

_CHANNELS = {"min": 1, "max": 8192, "max_items": 16}
_DIM = {"min": 1, "max": 65536, "max_items": 16}
_DEPTH = {"min": 0, "max": 64, "max_items": 16}


@dataclass(frozen=True)
class UNet2DConditionConfig:
    """A diffusers UNet2DConditionModel config; names and defaults are diffusers'.

    attention_head_dim is, in spite of its name, the number of heads (of all levels or of each);
    their width in the blocks whose names begin with Simple.
    Fields that allow a single value are options that we do not have: any other value is an error.
    """

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("UNet2DConditionModel",)
    #: dropout acts in training only; upcast_attention asks for a float32 softmax, which ours is.
    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset({"dropout", "upcast_attention"})

    sample_size: int | tuple[int, int] | None = field(
        default=None, metadata={"min": 1, "max": 8192}
    )
    in_channels: int = field(default=4, metadata=_CHANNELS)
    out_channels: int = field(default=4, metadata=_CHANNELS)
    center_input_sample: bool = False
    flip_sin_to_cos: bool = True
    freq_shift: float = field(default=0, metadata={"min": -64, "max": 64})
    down_block_types: tuple[DownType, ...] = field(
        default=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"), metadata={"max_items": 16}
    )
    mid_block_type: MidType | None = "UNetMidBlock2DCrossAttn"
    up_block_types: tuple[UpType, ...] = field(
        default=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3), metadata={"max_items": 16}
    )
    block_out_channels: tuple[int, ...] = field(default=(320, 640, 1280, 1280), metadata=_CHANNELS)
    layers_per_block: int | tuple[int, ...] = field(
        default=2, metadata={"min": 1, "max": 32, "max_items": 16}
    )
    downsample_padding: int = field(default=1, metadata={"min": 0, "max": 1})
    norm_num_groups: int = field(default=32, metadata=_CHANNELS)
    norm_eps: float = field(default=1e-5, metadata={"min": 0, "max": 1})
    act_fn: Literal["silu", "swish", "gelu"] = "silu"

    cross_attention_dim: int | tuple[int, ...] = field(default=1280, metadata=_DIM)
    transformer_layers_per_block: int | tuple[Depth, ...] = field(default=1, metadata=_DEPTH)
    reverse_transformer_layers_per_block: tuple[Depth, ...] | None = field(
        default=None, metadata=_DEPTH
    )
    attention_head_dim: int | tuple[int, ...] = field(
        default=8, metadata={"min": 1, "max": 1024, "max_items": 16}
    )
    use_linear_projection: bool = False

    time_embedding_dim: int | None = field(default=None, metadata=_DIM)
    time_cond_proj_dim: int | None = field(default=None, metadata=_DIM)
    conv_in_kernel: int = field(default=3, metadata={"min": 1, "max": 7})
    conv_out_kernel: int = field(default=3, metadata={"min": 1, "max": 7})
    class_embed_type: Literal["timestep", "projection", "simple_projection", "identity"] | None = (
        None
    )
    num_class_embeds: int | None = field(default=None, metadata=_DIM)
    addition_embed_type: (
        Literal["text_time", "text", "text_image", "image", "image_hint"] | None
    ) = None
    addition_embed_type_num_heads: int = field(default=64, metadata={"min": 1, "max": 1024})
    addition_time_embed_dim: int | None = field(default=None, metadata={"min": 2, "max": 8192})
    projection_class_embeddings_input_dim: int | None = field(default=None, metadata=_DIM)

    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    time_embedding_act_fn: Literal["silu", "swish", "gelu"] | None = None
    encoder_hid_dim: int | None = field(default=None, metadata=_DIM)
    encoder_hid_dim_type: Literal["text_proj", "text_image_proj", "image_proj"] | None = None
    cross_attention_norm: Literal["group_norm"] | None = None
    # Of Simple and Resnet blocks; elsewhere at the value that leaves them out.
    only_cross_attention: bool | tuple[bool, ...] = False
    mid_block_only_cross_attention: bool | None = None
    mid_block_scale_factor: float = field(default=1, metadata={"min": 1e-3, "max": 1e3})
    resnet_skip_time_act: bool = False
    resnet_out_scale_factor: float = field(default=1.0, metadata={"min": 1e-3, "max": 1e3})

    # Options of other models, at the value that leaves them out.
    time_embedding_type: Literal["positional"] = "positional"
    timestep_post_act: None = None
    num_attention_heads: None = None
    dual_cross_attention: Literal[False] = False
    attention_type: Literal["default"] = "default"
    class_embeddings_concat: Literal[False] = False

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "UNet2DConditionConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        problems: list[str] = []
        check_levels(
            problems,
            self.levels,
            down_block_types=self.down_block_types,
            up_block_types=self.up_block_types,
            layers_per_block=self.layers_per_block,
            cross_attention_dim=self.cross_attention_dim,
            attention_head_dim=self.attention_head_dim,
            transformer_layers_per_block=self.transformer_layers_per_block,
            reverse_transformer_layers_per_block=self.reverse_transformer_layers_per_block,
            only_cross_attention=self.only_cross_attention,
        )
        if not self.block_out_channels:
            problems.append("block_out_channels is empty")
        if not problems:  # what follows indexes by level
            problems += [*self._depth_problems(), *self._size_problems(), *self._option_problems()]
            problems += simple_problems(self)
        raise_problems(problems)

    # --- per level, whichever way the config says it ----------------------------------------------

    @property
    def levels(self) -> int:
        return len(self.block_out_channels)

    def layers(self, level: int) -> int:
        return _pick(self.layers_per_block, level)

    def heads(self, level: int) -> int:
        return _pick(self.attention_head_dim, level)

    def only_context(self, level: int) -> bool:
        """Whether a Simple block's picture attends to the text alone."""
        return _pick(self.only_cross_attention, level)

    @property
    def mid_only_context(self) -> bool:
        """The same of the middle block."""
        if self.mid_block_only_cross_attention is not None:
            return self.mid_block_only_cross_attention
        return self.only_cross_attention is True

    @property
    def projection(self) -> str | None:
        """encoder_hid_dim_type; where the dim alone is told, diffusers means "text_proj"."""
        if self.encoder_hid_dim_type is None and self.encoder_hid_dim is not None:
            return "text_proj"
        return self.encoder_hid_dim_type

    def context_dim(self, level: int) -> int:
        return _pick(self.cross_attention_dim, level)

    def _depth(self, level: int) -> Depth:
        depths = self.transformer_layers_per_block
        return depths[level] if isinstance(depths, tuple) else depths

    def down_depths(self, level: int) -> tuple[int, ...]:
        """Transformer blocks after each residual block on the way down."""
        return _spread(self._depth(level), self.layers(level))

    def up_depths(self, level: int) -> tuple[int, ...]:
        """The same on the way up, where each level has one layer more."""
        reverse = self.reverse_transformer_layers_per_block
        depth = self._depth(level) if reverse is None else reverse[self.levels - 1 - level]
        return _spread(depth, self.layers(level) + 1)

    @property
    def mid_depth(self) -> int:
        return _spread(self._depth(self.levels - 1), 1)[0]

    def crosses(self, level: int) -> tuple[bool, bool]:
        """Whether the level has transformers on the way down and on the way up."""
        down = self.down_block_types[level] == "CrossAttnDownBlock2D"
        return down, self.up_block_types[self.levels - 1 - level] == "CrossAttnUpBlock2D"

    @property
    def time_dim(self) -> int:
        return self.time_embedding_dim or 4 * self.block_out_channels[0]

    # --- what no single field can tell ------------------------------------------------------------

    def _depth_problems(self) -> list[str]:
        problems = []
        per_level = self.transformer_layers_per_block
        reverse = self.reverse_transformer_layers_per_block
        for level in range(self.levels):
            want = self.layers(level)
            nested = per_level[level] if isinstance(per_level, tuple) else None
            if isinstance(nested, tuple):
                if reverse is None:
                    problems.append(
                        "transformer_layers_per_block is nested, which needs"
                        " reverse_transformer_layers_per_block"
                    )
                if len(nested) != want:
                    problems.append(
                        f"transformer_layers_per_block[{level}] has {len(nested)} items,"
                        f" expected {want}"
                    )
            i = self.levels - 1 - level
            back = reverse[i] if reverse else None
            if isinstance(back, tuple) and len(back) != want + 1:
                problems.append(
                    f"reverse_transformer_layers_per_block[{i}] has {len(back)} items,"
                    f" expected {want + 1}"
                )
        if problems:
            return problems
        resnets = sum(2 * self.layers(i) + 1 for i in range(self.levels)) + 2
        transformers = self.mid_depth
        for level in range(self.levels):
            down, up = self.crosses(level)
            transformers += down * sum(self.down_depths(level)) + up * sum(self.up_depths(level))
        if resnets > MAX_RESNETS:
            problems.append(f"{resnets} residual blocks in all, at most {MAX_RESNETS} are built")
        if transformers > MAX_TRANSFORMERS:
            problems.append(
                f"{transformers} transformer blocks in all, at most {MAX_TRANSFORMERS} are built"
            )
        return problems

    def _size_problems(self) -> list[str]:
        problems = []
        last = self.levels - 1
        for level, channels in enumerate(self.block_out_channels):
            if channels % self.norm_num_groups:
                problems.append(
                    f"block_out_channels[{level}] {channels} is no multiple of"
                    f" norm_num_groups {self.norm_num_groups}"
                )
            mid = level == last and self.mid_block_type == "UNetMidBlock2DCrossAttn"
            if (any(self.crosses(level)) or mid) and channels % self.heads(level):
                problems.append(
                    f"block_out_channels[{level}] {channels} is no multiple of its"
                    f" {self.heads(level)} heads (attention_head_dim)"
                )
        if self.block_out_channels[0] // 2 <= max(self.freq_shift, 0):
            problems.append(
                f"block_out_channels[0] {self.block_out_channels[0]} is too small for the time"
                f" embedding, with freq_shift {self.freq_shift}"
            )
        return problems

    def _option_problems(self) -> list[str]:
        problems = []
        for name in ("conv_in_kernel", "conv_out_kernel"):
            if getattr(self, name) % 2 == 0:
                problems.append(f"{name} is {getattr(self, name)}, expected an odd number")
        width = self.projection_class_embeddings_input_dim
        if self.class_embed_type == "projection" and width is None:
            problems.append(
                'class_embed_type "projection" needs projection_class_embeddings_input_dim'
            )
        if self.class_embed_type is not None and self.num_class_embeds is not None:
            problems.append("class_embed_type and num_class_embeds exclude each other")
        if self.addition_embed_type == "text_time":
            for name in ("addition_time_embed_dim", "projection_class_embeddings_input_dim"):
                if getattr(self, name) is None:
                    problems.append(f'addition_embed_type "text_time" needs {name}')
            if (self.addition_time_embed_dim or 0) // 2 <= max(self.freq_shift, 0):
                problems.append("addition_time_embed_dim is too small for freq_shift")
        return problems


def _pick(value: T | tuple[T, ...], level: int) -> T:
    return value[level] if isinstance(value, tuple) else value


def _spread(depth: Depth, layers: int) -> tuple[int, ...]:
    return depth if isinstance(depth, tuple) else (depth,) * layers
