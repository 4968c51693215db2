"""A ControlNet's config.json: the half of a U-Net's that it has, and its embedding of pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from ...weights import read_config
from ..base import raise_problems
from ..unet.config import UNet2DConditionConfig

_CHANNELS = {"min": 1, "max": 8192, "max_items": 8}
#: The ways up that go with the ways down: a ControlNet has none, but the checks of a U-Net's
#: config look at both.
_UP = {"CrossAttnDownBlock2D": "CrossAttnUpBlock2D"}


@dataclass(frozen=True)
class ControlNetConfig(UNet2DConditionConfig):
    """A diffusers ControlNetModel config; names and defaults are diffusers'.

    conditioning_embedding_out_channels: widths of the convolutions that embed a picture, each but
    the last followed by one that halves it. controlnet_conditioning_channel_order: "bgr" for
    networks that were trained with blue first. global_pool_conditions: what the network adds is
    the mean over the picture, and it acts as in guess mode (shuffle).
    """

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("ControlNetModel",)

    conditioning_channels: int = field(default=3, metadata={"min": 1, "max": 64})
    controlnet_conditioning_channel_order: Literal["rgb", "bgr"] = "rgb"
    conditioning_embedding_out_channels: tuple[int, ...] = field(
        default=(16, 32, 96, 256), metadata=_CHANNELS
    )
    global_pool_conditions: bool = False

    # Of a U-Net alone: a config that has them is none of a ControlNet's.
    sample_size: int | tuple[int, int] | None = field(default=None, init=False)
    out_channels: int = field(default=4, init=False)
    center_input_sample: bool = field(default=False, init=False)
    up_block_types: tuple[Any, ...] = field(default=(), init=False)
    reverse_transformer_layers_per_block: None = field(default=None, init=False)
    conv_in_kernel: int = field(default=3, init=False)
    conv_out_kernel: int = field(default=3, init=False)
    time_cond_proj_dim: None = field(default=None, init=False)
    time_embedding_dim: None = field(default=None, init=False)
    time_embedding_act_fn: None = field(default=None, init=False)

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "ControlNetConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    @classmethod
    def of_unet(cls, unet: UNet2DConditionConfig, **own: Any) -> "ControlNetConfig":
        """That of a ControlNet beside a U-Net, which a file without a config follows.

        own: fields that differ. Raises ValueError for a U-Net that no ControlNet is made for.
        """
        names = {f.name for f in fields(unet)}
        shared = {f.name: getattr(unet, f.name) for f in fields(cls) if f.init and f.name in names}
        return cls(**{**shared, **own})

    def __post_init__(self) -> None:
        up = tuple(_UP.get(kind, "UpBlock2D") for kind in reversed(self.down_block_types))
        object.__setattr__(self, "up_block_types", up)
        super().__post_init__()
        problems = []
        if not self.conditioning_embedding_out_channels:
            problems.append("conditioning_embedding_out_channels is empty")
        others = [k for k in self.down_block_types if "Simple" in k or "Resnet" in k]
        if others:
            problems.append(f"down_block_types: {others[0]} is of no ControlNet")
        raise_problems(problems)

    @property
    def factor(self) -> int:
        """Pixels of the picture shown per pixel of the sample along each side."""
        return int(2 ** (len(self.conditioning_embedding_out_channels) - 1))

    @property
    def skip_channels(self) -> Sequence[int]:
        """Of every skip, in the order in which they are made."""
        widths = [self.block_out_channels[0]]
        for level, channels in enumerate(self.block_out_channels):
            halves = level < self.levels - 1
            widths += [channels] * (self.layers(level) + halves)
        return widths


@dataclass(frozen=True)
class ControlNetUnionConfig(ControlNetConfig):
    """A diffusers ControlNetUnionModel config: one network for several kinds of pictures.

    num_control_type: of kinds. num_trans_channel, num_trans_head, num_trans_layer: of the
    transformer over the means of pictures and sample; num_proj_channel: of its result, which is
    added to the sample's channels.
    """

    # The authors' own spelling of the class is in the published folder.
    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("ControlNetUnionModel", "ControlNetModel_Union")

    conditioning_embedding_out_channels: tuple[int, ...] = field(
        default=(48, 96, 192, 384), metadata=_CHANNELS
    )
    controlnet_conditioning_channel_order: Literal["rgb"] = "rgb"
    num_control_type: int = field(default=6, metadata={"min": 1, "max": 64})
    num_trans_channel: int = field(default=320, metadata={"min": 1, "max": 8192})
    num_trans_head: int = field(default=8, metadata={"min": 1, "max": 256})
    num_trans_layer: int = field(default=1, metadata={"min": 1, "max": 64})
    num_proj_channel: int = field(default=320, metadata={"min": 1, "max": 8192})

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = []
        first = self.block_out_channels[0]
        for name in ("num_trans_channel", "num_proj_channel"):
            if getattr(self, name) != first:
                problems.append(
                    f"{name} is {getattr(self, name)}, expected block_out_channels[0], {first}"
                )
        if self.num_trans_channel % self.num_trans_head:
            problems.append(
                f"num_trans_channel {self.num_trans_channel} is no multiple of num_trans_head"
                f" {self.num_trans_head}"
            )
        if self.addition_time_embed_dim is None:
            problems.append("addition_time_embed_dim is missing")
        raise_problems(problems)
