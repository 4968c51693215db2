"""AsymmetricAutoencoderKL: a wider decoder, which for inpainting sees what is not masked.

Zhu et al. 2023, arXiv:2306.04632.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ...errors import RequestError
from ...guard import inference
from ...layers import Conv2d, PointwiseConv2d
from ...weights import read_config
from ..base import Model, to_nchw
from .kl import (
    AutoencoderKL,
    AutoencoderKLConfig,
    DecoderOutput,
    _Decoder,
    _Encoder,
)

#: Halved for each of the condition's convolutions but the last; at 1 they end.
STRIDE = 16

_CHANNELS = {"min": 1, "max": 8192, "max_items": 16}
_TYPES = {"max_items": 16}
_LAYERS = {"min": 1, "max": 32}


@dataclass(frozen=True)
class AsymmetricAutoencoderKLConfig:
    """config.json; names and defaults are diffusers'."""

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("AsymmetricAutoencoderKL",)
    #: What diffusers writes beside: the decoder's channels again, and that it does not overflow.
    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset({"block_out_channels"})

    in_channels: int = field(default=3, metadata=_CHANNELS)
    out_channels: int = field(default=3, metadata=_CHANNELS)
    down_block_types: tuple[Literal["DownEncoderBlock2D"], ...] = field(
        default=("DownEncoderBlock2D",), metadata=_TYPES
    )
    down_block_out_channels: tuple[int, ...] = field(default=(64,), metadata=_CHANNELS)
    layers_per_down_block: int = field(default=1, metadata=_LAYERS)
    up_block_types: tuple[Literal["UpDecoderBlock2D"], ...] = field(
        default=("UpDecoderBlock2D",), metadata=_TYPES
    )
    up_block_out_channels: tuple[int, ...] = field(default=(64,), metadata=_CHANNELS)
    layers_per_up_block: int = field(default=1, metadata=_LAYERS)
    act_fn: Literal["silu", "swish"] = "silu"
    latent_channels: int = field(default=4, metadata=_CHANNELS)
    norm_num_groups: int = field(default=32, metadata=_CHANNELS)
    sample_size: int = field(default=32, metadata={"min": 1, "max": 65536})
    scaling_factor: float = field(default=0.18215, metadata={"min": 1e-6, "max": 1e6})
    force_upcast: bool = False

    #: As of AutoencoderKL's config: no asymmetric one has any.
    shift_factor: ClassVar[None] = None
    latents_mean: ClassVar[None] = None
    latents_std: ClassVar[None] = None

    @classmethod
    def from_dict(
        cls, d: dict[str, Any], where: str = "config.json"
    ) -> "AsymmetricAutoencoderKLConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        if len(self.down_block_out_channels) != len(self.up_block_out_channels):
            raise ValueError(
                "down_block_out_channels and up_block_out_channels: expected as many items, found"
                f" {len(self.down_block_out_channels)} and {len(self.up_block_out_channels)}"
            )
        _ = self.encoder, self.decoder  # which check themselves

    @property
    def block_out_channels(self) -> tuple[int, ...]:
        """The decoder's, as diffusers writes them."""
        return self.up_block_out_channels

    @property
    def downscale(self) -> int:
        """Pixels per latent pixel along each side."""
        return 1 << (len(self.down_block_out_channels) - 1)

    @property
    def encoder(self) -> AutoencoderKLConfig:
        """Of an autoencoder with this one's encoder."""
        return self._symmetric(self.down_block_out_channels, self.layers_per_down_block)

    @property
    def decoder(self) -> AutoencoderKLConfig:
        """Of an autoencoder with this one's decoder."""
        return self._symmetric(self.up_block_out_channels, self.layers_per_up_block)

    def _symmetric(self, widths: tuple[int, ...], layers: int) -> AutoencoderKLConfig:
        down, up = self.down_block_types, self.up_block_types
        return AutoencoderKLConfig(
            in_channels=self.in_channels, out_channels=self.out_channels, down_block_types=down,
            up_block_types=up, block_out_channels=widths, layers_per_block=layers,
            latent_channels=self.latent_channels, norm_num_groups=self.norm_num_groups,
        )  # fmt: skip


class _ConditionEncoder(nn.Module):
    """Features of the masked picture at the sizes and widths of the decoder's."""

    def __init__(self, c: AsymmetricAutoencoderKLConfig):
        super().__init__()
        before = c.out_channels
        layers: list[nn.Module] = []
        for i, width in enumerate(_widths(c.up_block_out_channels)):
            kernel, stride = (3, 1) if i < 2 else (4, 2)
            layers.append(Conv2d(before, width, kernel, stride=stride))
            before = width
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> dict[tuple[int, ...], Tensor]:
        """{(height, width, channels): features} of pictures [N, H, W, C]."""
        found: dict[tuple[int, ...], Tensor] = {}
        for layer in self.layers:
            x = layer(x)
            found[tuple(x.shape[1:])] = x
            x = x.relu()
        return found


def _widths(channels: Sequence[int]) -> list[int]:
    """Of the condition's convolutions: doubling from the decoder's narrowest to its widest."""
    width, widths = channels[0], []
    stride = STRIDE
    while stride > 1:
        stride //= 2
        wider, width = 2 * width, min(width, channels[-1])
        widths.append(width)
        last = channels[-1] if stride == 1 else wider
        width *= 2
    return [*widths, last]


class _MaskedDecoder(_Decoder):
    """The decoder, whose features outside of a mask are those of the picture."""

    def __init__(self, c: AsymmetricAutoencoderKLConfig):
        super().__init__(c.decoder)
        self.condition_encoder = _ConditionEncoder(c)

    def blended(self, z: Tensor, image: Tensor, mask: Tensor) -> Tensor:
        """z [N, h, w, C]; image [N, H, W, 3] and mask [N, H, W, 1], 1 where it is made anew."""
        x = self.mid_block(self.conv_in(z))
        features = self.condition_encoder((1 - mask) * image)
        for block in self.up_blocks:
            x = _blend(x, features, mask)
            for layer in block.layers():  # type: ignore[operator] # _UpBlock's
                x = layer(x)
        x = _blend(x, features, mask)
        made: Tensor = self.conv_out(x, **self.conv_norm_out.scale_shift(x), silu=True)
        return made


def _blend(x: Tensor, features: dict[tuple[int, ...], Tensor], mask: Tensor) -> Tensor:
    """x where the mask is 1, the features of its shape elsewhere. Plain torch, pixel by pixel."""
    shape = tuple(x.shape[1:])
    if shape not in features:
        raise RequestError(
            f"image: this decoder has {shape[2]} channels at {shape[0]}x{shape[1]}, of which the"
            " condition has none: expected four levels, each twice as wide as the one before or as"
            " the widest, and sides that are multiples of 8"
        )
    rows = (torch.arange(shape[0]) * mask.shape[1]).div(shape[0], rounding_mode="floor")
    columns = (torch.arange(shape[1]) * mask.shape[2]).div(shape[1], rounding_mode="floor")
    small = mask[:, rows.to(x.device)][:, :, columns.to(x.device)]
    return x * small + features[shape] * (1 - small)


class AsymmetricAutoencoderKL(AutoencoderKL):
    """An AutoencoderKL whose decoder may be shown the picture that is painted in."""

    config_class = AsymmetricAutoencoderKLConfig  # type: ignore[assignment] # of the same fields
    hides_infinity = True

    def __init__(self, config: AsymmetricAutoencoderKLConfig):
        Model.__init__(self, config)
        latent = config.latent_channels
        self.encoder = _Encoder(config.encoder)
        self.decoder: _MaskedDecoder = _MaskedDecoder(config)
        self.quant_conv = PointwiseConv2d(2 * latent, 2 * latent)
        self.post_quant_conv = PointwiseConv2d(latent, latent)
        self.set_tiles(config.sample_size, config.downscale)

    @inference
    def decode(
        self, z: Tensor, return_dict: bool = True, *, image: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> "DecoderOutput | tuple[Tensor, ...]":  # fmt: skip
        """Pictures of latents, as AutoencoderKL.decode.

        Args:
            z: [N, C, h, w], unscaled latents.
            return_dict: False gives a tuple in place of an object with names.
            image: [N, out_channels, H, W] in -1..1, of the result's size.
            mask: [N, 1, H, W], 1 where the picture is made anew; with image, or neither; then not
                in tiles.

        Returns:
            [N, out_channels, h * downscale, w * downscale], as `sample` of the result.
        """
        if image is None and mask is None:
            return super().decode(z, return_dict)
        z = self._nhwc(z, self.config.latent_channels, "z")
        factor = self.config.downscale
        size = len(z), z.shape[1] * factor, z.shape[2] * factor
        given = []
        for name, x, channels in (("image", image, self.config.out_channels), ("mask", mask, 1)):
            wanted = [size[0], channels, *size[1:]]
            if x is None or list(x.shape) != wanted:
                raise RequestError(
                    f"{name}: expected {wanted}, given {None if x is None else list(x.shape)}"
                )
            given.append(self._nhwc(x, channels, name))
        assert self.post_quant_conv is not None  # this class always has it
        with self.arena.use():
            out = DecoderOutput(to_nchw(self.decoder.blended(self.post_quant_conv(z), *given)))
        return out if return_dict else out.to_tuple()
