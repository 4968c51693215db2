"""The autoencoder between pictures and latents.

Kingma & Welling 2013, arXiv:1312.6114; Rombach et al. 2022, arXiv:2112.10752.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from ...errors import RequestError
from ...guard import inference
from ...layers import Conv2d, GroupNorm, PointwiseConv2d
from ...weights import read_config
from ..base import Model, Output, check_levels, raise_problems, to_nchw
from ..blocks.resnet import Downsample2D, ResnetBlock2D, Upsample2D
from ..blocks.transformer import PictureAttention

#: diffusers' epsilon of every norm in an autoencoder; no config key says so.
EPS = 1e-6
MAX_RESNETS = 256
PIECE = 1 << 14  # half of the least that torch gives to two threads

_CHANNELS = {"min": 1, "max": 8192, "max_items": 16}
_TYPES = {"max_items": 16}
_FACTOR = {"min": 1e-6, "max": 1e6}
_PER_CHANNEL = {"min": -1e6, "max": 1e6, "max_items": 8192}


def check_autoencoder(c: Any) -> None:
    """Raises ValueError where a config's channels, block types and sizes do not go together."""
    problems: list[str] = []
    levels = len(c.block_out_channels)
    check_levels(
        problems, levels, down_block_types=c.down_block_types, up_block_types=c.up_block_types
    )
    if not levels:
        problems.append("block_out_channels is empty")
    for i, channels in enumerate(c.block_out_channels):
        if channels % c.norm_num_groups:
            problems.append(
                f"block_out_channels[{i}] {channels} is no multiple of"
                f" norm_num_groups {c.norm_num_groups}"
            )
    resnets = levels * (2 * c.layers_per_block + 1) + 4
    if resnets > MAX_RESNETS:
        problems.append(f"{resnets} residual blocks in all, at most {MAX_RESNETS} are built")
    raise_problems(problems)


@dataclass(frozen=True)
class AutoencoderKLConfig:
    """vae/config.json; names and defaults are diffusers'."""

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("AutoencoderKL",)
    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset()

    in_channels: int = field(default=3, metadata=_CHANNELS)
    out_channels: int = field(default=3, metadata=_CHANNELS)
    down_block_types: tuple[Literal["DownEncoderBlock2D"], ...] = field(
        default=("DownEncoderBlock2D",), metadata=_TYPES
    )
    up_block_types: tuple[Literal["UpDecoderBlock2D"], ...] = field(
        default=("UpDecoderBlock2D",), metadata=_TYPES
    )
    block_out_channels: tuple[int, ...] = field(default=(64,), metadata=_CHANNELS)
    layers_per_block: int = field(default=1, metadata={"min": 1, "max": 32})
    act_fn: Literal["silu", "swish"] = "silu"
    latent_channels: int = field(default=4, metadata=_CHANNELS)
    norm_num_groups: int = field(default=32, metadata=_CHANNELS)
    sample_size: int = field(default=32, metadata={"min": 1, "max": 65536})
    scaling_factor: float = field(default=0.18215, metadata=_FACTOR)
    shift_factor: float | None = field(default=None, metadata={"min": -1e6, "max": 1e6})
    #: Whether a half-precision pipeline should decode in float32; the pipeline decides.
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    #: One per latent channel; what uses them: pyengine.diffusion.latents.
    latents_mean: tuple[float, ...] | None = field(default=None, metadata=_PER_CHANNEL)
    latents_std: tuple[float, ...] | None = field(
        default=None, metadata={**_PER_CHANNEL, "min": 1e-6}
    )

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "AutoencoderKLConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        check_autoencoder(self)
        given = {n: getattr(self, n) for n in ("latents_mean", "latents_std")}
        for (name, values), other in zip(given.items(), reversed(given), strict=True):
            if values is not None and given[other] is None:
                raise ValueError(f"{name} must be null, or {other} given with it")
            if values is not None and len(values) != self.latent_channels:
                raise ValueError(
                    f"{name} has {len(values)} items, expected {self.latent_channels}, one per"
                    " latent channel"
                )

    @property
    def downscale(self) -> int:
        """Pixels per latent pixel along each side."""
        return int(2 ** (len(self.block_out_channels) - 1))


class Levels(Protocol):
    """What a config says of encoder and decoder; VQModel's says the same."""

    @property
    def in_channels(self) -> int: ...
    @property
    def out_channels(self) -> int: ...
    @property
    def latent_channels(self) -> int: ...
    @property
    def block_out_channels(self) -> tuple[int, ...]: ...
    @property
    def layers_per_block(self) -> int: ...
    @property
    def norm_num_groups(self) -> int: ...
    @property
    def mid_block_add_attention(self) -> bool: ...


# --- network --------------------------------------------------------------------------------------


def _resnets(c: Levels, first: int, channels: int, count: int) -> nn.ModuleList:
    widths = [first, *[channels] * (count - 1)]
    return nn.ModuleList(
        ResnetBlock2D(width, channels, c.norm_num_groups, EPS, None) for width in widths
    )


class _DownBlock(nn.Module):
    def __init__(self, c: Levels, level: int):
        super().__init__()
        channels = c.block_out_channels[level]
        first = c.block_out_channels[max(level - 1, 0)]
        self.resnets = _resnets(c, first, channels, c.layers_per_block)
        self.downsamplers = nn.ModuleList()
        if level < len(c.block_out_channels) - 1:
            self.downsamplers.append(Downsample2D(channels, padding=0))

    def layers(self) -> tuple[nn.Module, ...]:
        return (*self.resnets, *self.downsamplers)


class _UpBlock(nn.Module):
    def __init__(self, c: Levels, level: int):
        super().__init__()
        channels = c.block_out_channels[level]
        first = c.block_out_channels[min(level + 1, len(c.block_out_channels) - 1)]
        self.resnets = _resnets(c, first, channels, c.layers_per_block + 1)
        self.upsamplers = nn.ModuleList([Upsample2D(channels)] if level else [])

    def layers(self) -> tuple[nn.Module, ...]:
        return (*self.resnets, *self.upsamplers)


class _MidBlock(nn.Module):
    def __init__(self, c: Levels):
        super().__init__()
        channels = c.block_out_channels[-1]
        self.resnets = _resnets(c, channels, channels, 2)
        self.attentions = nn.ModuleList()
        if c.mid_block_add_attention:
            self.attentions.append(PictureAttention(channels, c.norm_num_groups, EPS))

    def forward(self, x: Tensor) -> Tensor:
        x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        y: Tensor = self.resnets[1](x)
        return y


def _layers(blocks: nn.ModuleList) -> list[nn.Module]:
    """All layers in order. A block's own forward would hold what it was given until it returns:
    268 MB at the end of a decoder to 512x512.
    """
    return [layer for block in blocks for layer in cast("_DownBlock | _UpBlock", block).layers()]


class _Encoder(nn.Module):
    def __init__(self, c: Levels):
        super().__init__()
        channels = c.block_out_channels
        self.conv_in = Conv2d(c.in_channels, channels[0])
        self.down_blocks = nn.ModuleList(_DownBlock(c, i) for i in range(len(channels)))
        self.mid_block = _MidBlock(c)
        self.conv_norm_out = GroupNorm(c.norm_num_groups, channels[-1], EPS)
        self.conv_out = Conv2d(channels[-1], 2 * c.latent_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for layer in _layers(self.down_blocks):
            x = layer(x)
        x = self.mid_block(x)
        return self.conv_out(x, **self.conv_norm_out.scale_shift(x), silu=True)


class _Decoder(nn.Module):
    def __init__(self, c: Levels):
        super().__init__()
        channels = c.block_out_channels
        self.conv_in = Conv2d(c.latent_channels, channels[-1])
        self.up_blocks = nn.ModuleList(_UpBlock(c, i) for i in reversed(range(len(channels))))
        self.mid_block = _MidBlock(c)
        self.conv_norm_out = GroupNorm(c.norm_num_groups, channels[0], EPS)
        self.conv_out = Conv2d(channels[0], c.out_channels)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for layer in _layers(self.up_blocks):
            x = layer(x)
        return self.conv_out(x, **self.conv_norm_out.scale_shift(x), silu=True)


# --- what encode and decode return ----------------------------------------------------------------


class DiagonalGaussian:
    """A normal distribution over latents, independent in each: mean and std are [N, C, h, w]."""

    def __init__(self, parameters: Tensor):
        """parameters: [N, 2 C, h, w], the mean and the logarithm of the variance."""
        self.parameters = parameters
        self.mean, logvar = parameters.chunk(2, dim=1)
        self.logvar = logvar.clamp(-30.0, 20.0)
        self.std = _exp(0.5 * self.logvar)

    def mode(self) -> Tensor:
        return self.mean

    def sample(
        self, generator: torch.Generator | Sequence[torch.Generator] | None = None
    ) -> Tensor:
        """A draw; generator: one for all pictures, or one for each, as diffusers draws."""
        if isinstance(generator, torch.Generator) or generator is None:
            noise = self._noise(self.mean.shape, generator)
        else:
            if len(generator) != len(self.mean):
                raise RequestError(
                    f"generator: expected one or {len(self.mean)}, got {len(generator)}"
                )
            one = (1, *self.mean.shape[1:])
            noise = torch.cat([self._noise(one, g) for g in generator])
        return self.mean + self.std * noise

    def _noise(self, shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
        # Drawn on the generator's own device, so that a seed means the same noise everywhere.
        device = self.mean.device if generator is None else generator.device
        noise = torch.randn(shape, generator=generator, device=device, dtype=self.mean.dtype)
        return noise.to(self.mean.device)


def _exp(x: Tensor) -> Tensor:
    """exp of each picture of [N, ...], of the same bits in any batch and on any threads.

    torch computes what is left over where a thread's share ends with other last bits; pieces this
    small are never shared out.
    """
    pieces = [torch.cat([p.exp() for p in row.split(PIECE)]) for row in x.flatten(1)]
    return torch.stack(pieces).view(x.shape)


@dataclass
class EncoderOutput(Output):
    latent_dist: DiagonalGaussian


@dataclass
class DecoderOutput(Output):
    """sample: [N, out_channels, H, W], about -1..1, not clamped."""

    sample: Tensor


# --- model ----------------------------------------------------------------------------------------


class AutoencoderKL(Model):
    """The autoencoder of Stable Diffusion 1.x, 2.x and XL."""

    config_class = AutoencoderKLConfig

    def __init__(self, config: AutoencoderKLConfig):
        super().__init__(config)
        c, latent = config, config.latent_channels
        self.encoder = _Encoder(c)
        self.decoder = _Decoder(c)
        self.quant_conv = PointwiseConv2d(2 * latent, 2 * latent) if c.use_quant_conv else None
        self.post_quant_conv = PointwiseConv2d(latent, latent) if c.use_post_quant_conv else None
        self.set_tiles(c.sample_size, c.downscale)

    def set_tiles(self, side: int, factor: int) -> None:
        """Sets what `enable_tiling` cuts into; it cuts nothing yet.

        Args:
            side: of a tile, in pixels.
            factor: pixels of a latent's side.
        """
        self.use_tiling = False
        self.tile_sample_min_size = side
        self.tile_latent_min_size = side // factor
        self.tile_overlap_factor = 0.25

    def enable_tiling(self) -> None:
        """Work tile by tile on pictures larger than `tile_sample_min_size`: the memory is bounded.

        The tiles overlap by a quarter and are blended, as diffusers does: close to, but not equal
        to, working on the whole. Raises RequestError if the config's sample_size makes tiles that
        are too small to overlap.
        """
        if self._step(self.tile_latent_min_size) < 1:
            raise RequestError(
                f"tiling: tiles of {self.tile_sample_min_size} pixels (the config's sample_size)"
                f" are {self.tile_latent_min_size} latents wide, expected at least 2"
            )
        self.use_tiling = True

    def enable_slicing(self) -> None:
        """Accepted, as diffusers has it: pipelines encode and decode pictures one by one."""

    def disable_slicing(self) -> None:
        """Accepted: see enable_slicing."""

    def disable_tiling(self) -> None:
        """Encodes and decodes pictures whole."""
        self.use_tiling = False

    @inference
    def encode(self, x: Tensor, return_dict: bool = True) -> EncoderOutput | tuple[Any, ...]:
        """The distribution of a picture's latents.

        Times `config.scaling_factor` (after `config.shift_factor` is subtracted) they are what the
        U-Net works on.

        Args:
            x: [N, in_channels, H, W] in -1..1.
            return_dict: False gives a tuple in place of an object with names.

        Returns:
            A distribution over [N, C, h, w], unscaled, as `latent_dist` of the result; h = H //
            downscale and w = W // downscale.
        """
        x = self._nhwc(x, self.config.in_channels, "x")
        sizes = self.tile_sample_min_size, self.tile_latent_min_size
        tiled = self.use_tiling and max(x.shape[1:3]) > sizes[0]
        self._check_pixels(x, self._step(sizes[0]) if tiled else max(x.shape[1:3]))
        with self.arena.use():
            h = self._tiled(self._encode_one, x, *sizes) if tiled else self._encode_one(x)
            out = EncoderOutput(DiagonalGaussian(to_nchw(h)))
        return out if return_dict else out.to_tuple()

    @inference
    def decode(self, z: Tensor, return_dict: bool = True) -> DecoderOutput | tuple[Any, ...]:
        """Pictures of latents.

        Args:
            z: [N, C, h, w], unscaled latents.
            return_dict: False gives a tuple in place of an object with names.

        Returns:
            [N, out_channels, h * downscale, w * downscale], about -1..1, as `sample` of the result.
        """
        z = self._nhwc(z, self.config.latent_channels, "z")
        sizes = self.tile_latent_min_size, self.tile_sample_min_size
        tiled = self.use_tiling and max(z.shape[1:3]) > sizes[0]
        with self.arena.use():
            x = self._tiled(self._decode_one, z, *sizes) if tiled else self._decode_one(z)
            out = DecoderOutput(to_nchw(x))
        return out if return_dict else out.to_tuple()

    def _nhwc(self, x: Tensor, channels: int, name: str) -> Tensor:
        if x.dim() != 4 or x.shape[1] != channels or not x.numel():
            raise RequestError(f"{name}: expected [N, {channels}, H, W], got {list(x.shape)}")
        return x.to(device=self.device, dtype=self.dtype).permute(0, 2, 3, 1).contiguous()

    def _check_pixels(self, x: Tensor, step: int) -> None:
        """Refuses a picture of which a tile has no latent pixel; a tile begins every `step`."""
        for size in x.shape[1:3]:
            if (size - 1) % step + 1 < self.config.downscale:
                raise RequestError(
                    f"x: {x.shape[1]}x{x.shape[2]} pixels leave a tile of {(size - 1) % step + 1},"
                    f" expected at least {self.config.downscale}"
                )

    def _step(self, tile: int) -> int:
        return int(tile * (1 - self.tile_overlap_factor))

    def _encode_one(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        return h if self.quant_conv is None else self.quant_conv(h)

    def _decode_one(self, z: Tensor) -> Tensor:
        x: Tensor = self.decoder(z if self.post_quant_conv is None else self.post_quant_conv(z))
        return x

    def _tiled(
        self, run: Callable[[Tensor], Tensor], x: Tensor, size_in: int, size_out: int
    ) -> Tensor:
        """run over overlapping tiles of x [N, H, W, C], blended; size_*: of a tile, each side."""
        step = self._step(size_in)
        overlap = int(size_out * self.tile_overlap_factor)
        keep = size_out - overlap
        above: list[Tensor] = []
        rows = []
        for top in range(0, x.shape[1], step):
            tiles: list[Tensor] = []
            for i, left in enumerate(range(0, x.shape[2], step)):
                tile = run(x[:, top : top + size_in, left : left + size_in].contiguous())
                if above:
                    _blend(above[i], tile, overlap, dim=1)
                if tiles:
                    _blend(tiles[-1], tile, overlap, dim=2)
                tiles.append(tile)
            rows.append(torch.cat([t[:, :keep, :keep] for t in tiles], dim=2))
            above = tiles
        return torch.cat(rows, dim=1)


def _blend(before: Tensor, tile: Tensor, extent: int, dim: int) -> None:
    """Fades the end of `before` into the beginning of `tile`, in place, along `dim`."""
    extent = min(before.shape[dim], tile.shape[dim], extent)
    if extent < 1:
        return
    shape = [1] * tile.dim()
    shape[dim] = extent
    weight = torch.arange(extent, dtype=torch.float32, device=tile.device) / extent
    weight = weight.to(tile.dtype).view(shape)
    start = tile.narrow(dim, 0, extent)
    end = before.narrow(dim, before.shape[dim] - extent, extent)
    start.copy_(end * (1 - weight) + start * weight)
