"""unet/config.json of Stable Diffusion's x2 latent upscaler, and whether it fits together."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from ...weights import read_config
from ..base import check_levels, raise_problems
from ..blocks.k_blocks import GROUP_SIZE

MAX_RESNETS = 256

_CHANNELS = {"min": 1, "max": 8192, "max_items": 16}
_DIM = {"min": 1, "max": 65536}


@dataclass(frozen=True)
class LatentUpscalerUNetConfig:
    """A diffusers UNet2DConditionModel config whose blocks are k-diffusion's.

    Defaults are those of stabilityai/sd-x2-latent-upscaler. attention_head_dim is the width of the
    attentions' heads. Fields that allow a single value are options that diffusers has and this
    arrangement has not, or that its blocks do not read: any other value is an error.
    """

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("UNet2DConditionModel",)
    #: dropout acts in training only; upcast_attention asks for a float32 softmax, which ours is.
    #: The others are not read by blocks of this kind, whatever they are.
    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset(
        {
            *("dropout", "upcast_attention", "downsample_padding", "mid_block_scale_factor"),
            *("transformer_layers_per_block", "use_linear_projection", "only_cross_attention"),
            *("mid_block_only_cross_attention", "resnet_time_scale_shift", "freq_shift"),
            *("resnet_skip_time_act", "resnet_out_scale_factor", "dual_cross_attention"),
            *("reverse_transformer_layers_per_block", "attention_type", "cross_attention_norm"),
            *("addition_embed_type_num_heads", "projection_class_embeddings_input_dim"),
            *("addition_time_embed_dim", "class_embeddings_concat"),
        }
    )

    sample_size: int | None = field(default=48, metadata={"min": 1, "max": 8192})
    in_channels: int = field(default=8, metadata=_CHANNELS)
    out_channels: int = field(default=5, metadata=_CHANNELS)
    flip_sin_to_cos: bool = True
    down_block_types: tuple[Literal["KDownBlock2D", "KCrossAttnDownBlock2D"], ...] = field(
        default=("KDownBlock2D", *("KCrossAttnDownBlock2D",) * 3), metadata={"max_items": 16}
    )
    up_block_types: tuple[Literal["KUpBlock2D", "KCrossAttnUpBlock2D"], ...] = field(
        default=(*("KCrossAttnUpBlock2D",) * 3, "KUpBlock2D"), metadata={"max_items": 16}
    )
    block_out_channels: tuple[int, ...] = field(default=(384, 384, 768, 768), metadata=_CHANNELS)
    layers_per_block: int | tuple[int, ...] = field(
        default=4, metadata={"min": 1, "max": 32, "max_items": 16}
    )
    norm_eps: float = field(default=1e-5, metadata={"min": 0, "max": 1})
    attention_head_dim: int = field(default=64, metadata={"min": 1, "max": 1024})
    cross_attention_dim: int = field(default=768, metadata=_DIM)
    time_embedding_dim: int | None = field(default=None, metadata=_DIM)
    time_cond_proj_dim: int = field(default=896, metadata=_DIM)
    conv_in_kernel: int = field(default=1, metadata={"min": 1, "max": 7})
    conv_out_kernel: int = field(default=1, metadata={"min": 1, "max": 7})

    act_fn: Literal["gelu"] = "gelu"
    time_embedding_type: Literal["fourier"] = "fourier"
    timestep_post_act: Literal["gelu"] = "gelu"
    mid_block_type: None = None
    norm_num_groups: None = None
    center_input_sample: Literal[False] = False
    time_embedding_act_fn: None = None
    class_embed_type: None = None
    num_class_embeds: None = None
    addition_embed_type: None = None
    encoder_hid_dim: None = None
    encoder_hid_dim_type: None = None
    num_attention_heads: None = None

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "LatentUpscalerUNetConfig":
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
        )
        if self.levels < 2:
            problems.append(f"block_out_channels has {self.levels} items, expected 2 at least")
        if not problems:  # what follows indexes by level
            problems += [*self._size_problems(), *self._block_problems()]
        raise_problems(problems)

    @property
    def levels(self) -> int:
        return len(self.block_out_channels)

    def layers(self, level: int) -> int:
        own = self.layers_per_block
        return own[level] if isinstance(own, tuple) else own

    @property
    def time_dim(self) -> int:
        return self.time_embedding_dim or 2 * self.block_out_channels[0]

    @property
    def projection(self) -> None:
        """What the text goes through before the attentions: nothing; see UNet2DConditionConfig."""
        return self.encoder_hid_dim_type

    @property
    def divisor(self) -> int:
        """Of a sample's height and width."""
        return 1 << (self.levels - 1)

    # --- the way up, whose widths diffusers derives from whether neighbours are as wide -----------

    def below(self, level: int) -> int:
        """Channels of the next larger level, which a level on the way up ends with."""
        return self.block_out_channels[max(level - 1, 0)]

    def begins_up(self, level: int) -> bool:
        """Whether diffusers builds the level on the way up as the first: without a skip."""
        own = self.block_out_channels[level]
        cross = self.up_block_types[self.levels - 1 - level] == "KCrossAttnUpBlock2D"
        return cross and self.below(level) == own == self.time_dim

    def _size_problems(self) -> list[str]:
        problems = []
        for level, channels in enumerate(self.block_out_channels):
            for width in (channels, 2 * channels):
                if channels < GROUP_SIZE or width % (width // GROUP_SIZE):
                    problems.append(
                        f"block_out_channels[{level}] {channels} does not make groups of about"
                        f" {GROUP_SIZE} channels"
                    )
                    break
            if channels % self.attention_head_dim:
                problems.append(
                    f"block_out_channels[{level}] {channels} is no multiple of attention_head_dim"
                    f" {self.attention_head_dim}"
                )
        if self.time_dim % 2:
            problems.append(f"time_embedding_dim {self.time_dim} is odd")
        for name in ("conv_in_kernel", "conv_out_kernel"):
            if getattr(self, name) % 2 == 0:
                problems.append(f"{name} is {getattr(self, name)}, expected an odd number")
        resnets = sum(2 * self.layers(i) for i in range(self.levels))
        if resnets > MAX_RESNETS:
            problems.append(f"{resnets} residual blocks in all, at most {MAX_RESNETS} are built")
        return problems

    def _block_problems(self) -> list[str]:
        problems = []
        last = self.levels - 1
        if self.down_block_types[last] != "KCrossAttnDownBlock2D":
            problems.append(
                f"down_block_types[{last}] is {self.down_block_types[last]}, expected"
                " KCrossAttnDownBlock2D"
            )
        for level in range(self.levels):
            up = self.up_block_types[last - level]
            if up == "KUpBlock2D" and self.below(level) != self.block_out_channels[level]:
                problems.append(
                    f"up_block_types[{last - level}] is KUpBlock2D, expected KCrossAttnUpBlock2D"
                    f" from {self.block_out_channels[level]} to {self.below(level)} channels"
                )
            elif self.begins_up(level) != (level == last):
                problems.append(
                    f"up_block_types[{last - level}], {self.block_out_channels[level]} channels"
                    f" wide before {self.below(level)}, with time embeddings of {self.time_dim}:"
                    " diffusers builds no network of these that works"
                )
        return problems
