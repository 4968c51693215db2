"""The blocks of the U-Net: one level on the way down, the middle, one level on the way up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from ...errors import RequestError
from ..blocks.added_kv import AddedKVAttention
from ..blocks.resnet import Downsample2D, ResnetBlock2D, Upsample2D
from ..blocks.resnet_variants import VariantResnetBlock2D
from ..blocks.transformer import Attended, PictureAttention, Transformer2DModel


@dataclass(frozen=True)
class Conditioning:
    """What every block is told besides the picture.

    time: [N, Cout] per residual block's slot; context: what is attended to, per attention's slot;
    mask: [N, L], what is added to the scores of a text's tokens, by attention with added keys.
    """

    time: Sequence[Tensor]
    context: Sequence[Attended]
    mask: Tensor | None = None


@dataclass(frozen=True)
class Residuals:
    """What is added to activations from outside (ControlNet, T2I-Adapter), as [N, H, W, C].

    skips: one per skip, in the order in which they are made, added once all are; mid: added after
    the middle block; blocks: added to the last layer of each block on the way down, whose skip it
    then is too, and a last one after the middle block if its shape is right. Names are diffusers'.
    """

    skips: tuple[Tensor, ...] = ()
    mid: Tensor | None = None
    blocks: tuple[Tensor, ...] = ()

    @property
    def empty(self) -> bool:
        return not self.skips and self.mid is None and not self.blocks

    def of_block(self, i: int) -> Tensor | None:
        return self.blocks[i] if i < len(self.blocks) else None

    def with_skips(self, skips: list[Tensor]) -> list[Tensor]:
        """The skips with their residuals."""
        if not self.skips:
            return skips
        name = "down_block_additional_residuals"
        if len(self.skips) != len(skips):
            raise RequestError(f"{name}: expected {len(skips)} of them, got {len(self.skips)}")
        pairs = zip(skips, self.skips, strict=True)
        return [added(x, residual, f"{name}[{i}]") for i, (x, residual) in enumerate(pairs)]

    def after_mid(self, x: Tensor, blocks: int) -> Tensor:
        """x, the middle block's result, and a T2I-Adapter's last; blocks: on the way down."""
        last = self.of_block(blocks)
        return x if last is None or last.shape != x.shape else x + last


def added(x: Tensor, residual: Tensor | None, name: str) -> Tensor:
    """x + residual; raises RequestError where their shapes differ."""
    if residual is None:
        return x
    if residual.shape != x.shape:
        (n, h, w, c), (n2, h2, w2, c2) = x.shape, residual.shape
        raise RequestError(f"{name}: expected shape {[n, c, h, w]}, got {[n2, c2, h2, w2]}")
    return x + residual


class Block(nn.Module):
    """Residual blocks, each followed by attention where the block's type has some.

    config: Any or UNet2DConfig.
    """

    #: To the text and to the picture one after the other, in one softmax, to the picture alone, or
    #: not at all.
    attends: ClassVar[Literal["cross", "added", "self"] | None] = None
    #: The config's field by which the sums of residual blocks are divided.
    scale_factor: ClassVar[str] = "resnet_out_scale_factor"

    def __init__(self, config: Any, level: int, in_channels: Sequence[int], depths: Sequence[int]):
        """in_channels: of each residual block, skips included; depths: of each attention."""
        super().__init__()
        self.resnets = nn.ModuleList(
            self._resnet(config, c, config.block_out_channels[level]) for c in in_channels
        )
        self.attentions = nn.ModuleList(
            self._attention(config, level, depth) for depth in (depths if self.attends else ())
        )

    @classmethod
    def _resnet(
        cls,
        config: Any,
        in_channels: int,
        channels: int,
        resample: Literal["down", "up"] | None = None,
    ) -> ResnetBlock2D:
        scale_shift = config.resnet_time_scale_shift == "scale_shift"
        common = in_channels, channels, config.norm_num_groups, config.norm_eps, config.time_dim
        out_scale = getattr(config, cls.scale_factor, 1.0)
        skip_time_act = getattr(config, "resnet_skip_time_act", False)
        if config.act_fn != "gelu" and out_scale == 1 and not skip_time_act:
            return ResnetBlock2D(*common, time_scale_shift=scale_shift, resample=resample)
        return VariantResnetBlock2D(
            *common,
            time_scale_shift=scale_shift,
            resample=resample,
            out_scale=out_scale,
            activation="gelu" if config.act_fn == "gelu" else "silu",
            skip_time_act=skip_time_act,
        )

    def _attention(self, config: Any, level: int, depth: int) -> nn.Module:
        channels, groups = config.block_out_channels[level], config.norm_num_groups
        if self.attends == "self":
            return PictureAttention(channels, groups, config.norm_eps, config.heads(level))
        if self.attends == "added":
            return AddedKVAttention(
                channels,
                channels // self._head_dim(config, level),
                config.context_dim(level),
                groups,
                norm_context=config.cross_attention_norm is not None,
                only_context=self._only_context(config, level),
            )
        return Transformer2DModel(
            channels,
            config.heads(level),
            depth,
            config.context_dim(level),
            groups,
            config.use_linear_projection,
        )

    def _head_dim(self, config: Any, level: int) -> int:
        """Of added-KV attention, for which attention_head_dim is what its name says."""
        found: int = config.heads(level)
        return found

    def _only_context(self, config: Any, level: int) -> bool:
        """Whether attention with added keys has those alone."""
        found: bool = config.only_context(level)
        return found

    def _layer(self, i: int, x: Tensor, skip: Tensor | None, given: Conditioning) -> Tensor:
        x = self.resnets[i](x, skip, time=given.time)
        if i >= len(self.attentions):
            return x
        attention = self.attentions[i]
        y: Tensor
        if self.attends == "cross":
            y = attention(x, given.context)
        elif isinstance(attention, AddedKVAttention):
            assert attention.slot is not None
            keys, values, *_ = given.context[attention.slot]
            y = attention(x, (keys, values), given.mask)
        else:
            y = attention(x)
        return y


class DownBlock2D(Block):
    """A level on the way down; all but the lowest end by halving the picture."""

    def __init__(self, config: Any, level: int):
        channels = config.block_out_channels[level]
        first = config.block_out_channels[max(level - 1, 0)]
        rest = [channels] * (config.layers(level) - 1)
        super().__init__(config, level, [first, *rest], config.down_depths(level))
        self.downsamplers = nn.ModuleList()
        if level < config.levels - 1:
            self.downsamplers.append(self._downsampler(config, channels))

    def _downsampler(self, config: Any, channels: int) -> nn.Module:
        return Downsample2D(channels, config.downsample_padding)

    def forward(
        self, x: Tensor, given: Conditioning, skips: list[Tensor], residual: Tensor | None = None
    ) -> Tensor:
        """x: [N, H, W, C]. Puts every layer's result on `skips` and returns the last.

        residual: added as diffusers does: with attention to the last layer before the picture is
        halved, without to the result.
        """
        name = "down_intrablock_additional_residuals"
        for i in range(len(self.resnets)):
            x = self._layer(i, x, None, given)
            if self.attends == "cross" and i == len(self.resnets) - 1:
                x = added(x, residual, name)
            skips.append(x)
        for downsampler in self.downsamplers:
            x = self._halved(downsampler, x, given)
            skips.append(x)
        if self.attends != "cross":
            skips[-1] = x = added(x, residual, name)
        return x

    def begin(self, x: Tensor, given: Conditioning, skips: list[Tensor], count: int) -> Tensor:
        """The same without residuals, until there are `count` skips."""
        for i in range(len(self.resnets)):
            if len(skips) < count:
                x = self._layer(i, x, None, given)
                skips.append(x)
        for downsampler in self.downsamplers:
            if len(skips) < count:
                x = self._halved(downsampler, x, given)
                skips.append(x)
        return x

    def _halved(self, downsampler: nn.Module, x: Tensor, given: Conditioning) -> Tensor:
        resnet = isinstance(downsampler, ResnetBlock2D)
        y: Tensor = downsampler(x, time=given.time) if resnet else downsampler(x)
        return y


class CrossAttnDownBlock2D(DownBlock2D):
    attends = "cross"


class AttnDownBlock2D(DownBlock2D):
    attends = "self"

    def _downsampler(self, config: Any, channels: int) -> nn.Module:
        if config.downsample_type == "resnet":
            return self._resnet(config, channels, channels, "down")
        return super()._downsampler(config, channels)


class ResnetDownsampleBlock2D(DownBlock2D):
    def _downsampler(self, config: Any, channels: int) -> nn.Module:
        return self._resnet(config, channels, channels, "down")


class SimpleCrossAttnDownBlock2D(ResnetDownsampleBlock2D):
    attends = "added"


class UNetMidBlock2D(Block):
    """The lowest level, between the ways: one residual block, and with attention another."""

    scale_factor = "mid_block_scale_factor"

    def __init__(self, config: Any):
        level = config.levels - 1
        count = 2 if self.attends else 1
        channels = config.block_out_channels[level]
        super().__init__(config, level, [channels] * count, [config.mid_depth])

    def forward(self, x: Tensor, given: Conditioning) -> Tensor:
        for i in range(len(self.resnets)):
            x = self._layer(i, x, None, given)
        return x


class UNetMidBlock2DCrossAttn(UNetMidBlock2D):
    attends = "cross"


class UNetMidBlock2DSimpleCrossAttn(UNetMidBlock2D):
    attends = "added"

    def _only_context(self, config: Any, level: int) -> bool:
        found: bool = config.mid_only_context
        return found


class UpBlock2D(Block):
    """A level on the way up: one layer more than on the way down, each with a skip beside it."""

    def __init__(self, config: Any, level: int):
        channels = config.block_out_channels[level]
        below = config.block_out_channels[min(level + 1, config.levels - 1)]
        above = config.block_out_channels[max(level - 1, 0)]
        layers = config.layers(level)
        inputs = [below, *[channels] * layers]
        skips = [*[channels] * layers, above]
        widths = [a + b for a, b in zip(inputs, skips, strict=True)]
        super().__init__(config, level, widths, config.up_depths(level))
        self.upsamplers = nn.ModuleList()
        if level > 0:
            self.upsamplers.append(self._upsampler(config, channels))

    def _upsampler(self, config: Any, channels: int) -> nn.Module:
        return Upsample2D(channels)

    def forward(
        self,
        x: Tensor,
        given: Conditioning,
        skips: list[Tensor],
        first: int = 0,
        end: int | None = None,
    ) -> Tensor:
        """x: [N, H, W, C]. Takes its skips from the end of `skips`.

        The result has the size of the next skip, which is odd where the picture's was.
        first, end: layers before the first are left out, and all that comes from the end on.
        """
        for i in range(first, len(self.resnets) if end is None else end):
            x = self._layer(i, x, skips.pop(), given)
        if end is not None:
            return x
        for upsampler in self.upsamplers:
            size = tuple(skips[-1].shape[1:3])
            resnet = isinstance(upsampler, ResnetBlock2D)
            x = upsampler(x, time=given.time, size=size) if resnet else upsampler(x, size)
        return x


class CrossAttnUpBlock2D(UpBlock2D):
    attends = "cross"


class AttnUpBlock2D(UpBlock2D):
    attends = "self"

    def _upsampler(self, config: Any, channels: int) -> nn.Module:
        if config.upsample_type == "resnet":
            return self._resnet(config, channels, channels, "up")
        return super()._upsampler(config, channels)


class ResnetUpsampleBlock2D(UpBlock2D):
    def _upsampler(self, config: Any, channels: int) -> nn.Module:
        return self._resnet(config, channels, channels, "up")


class SimpleCrossAttnUpBlock2D(ResnetUpsampleBlock2D):
    attends = "added"

    def _head_dim(self, config: Any, level: int) -> int:
        # diffusers counts attention_head_dim from the other end here, as the models were trained.
        found: int = config.heads(config.levels - 1 - level)
        return found


#: By the names of diffusers; UNet2DConditionConfig and UNet2DConfig say which they take.
DOWN_BLOCKS = {
    "DownBlock2D": DownBlock2D,
    "CrossAttnDownBlock2D": CrossAttnDownBlock2D,
    "AttnDownBlock2D": AttnDownBlock2D,
    "ResnetDownsampleBlock2D": ResnetDownsampleBlock2D,
    "SimpleCrossAttnDownBlock2D": SimpleCrossAttnDownBlock2D,
}
MID_BLOCKS = {
    "UNetMidBlock2D": UNetMidBlock2D,
    "UNetMidBlock2DCrossAttn": UNetMidBlock2DCrossAttn,
    "UNetMidBlock2DSimpleCrossAttn": UNetMidBlock2DSimpleCrossAttn,
}
UP_BLOCKS = {
    "UpBlock2D": UpBlock2D,
    "CrossAttnUpBlock2D": CrossAttnUpBlock2D,
    "AttnUpBlock2D": AttnUpBlock2D,
    "ResnetUpsampleBlock2D": ResnetUpsampleBlock2D,
    "SimpleCrossAttnUpBlock2D": SimpleCrossAttnUpBlock2D,
}
