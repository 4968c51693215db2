"""AutoencoderTiny: the TAESD family, small networks between pictures and the latents of others.

github.com/madebyollin/taesd. Tensors' names are diffusers'; those of the publisher's own files are
read too (`from_files`). ReLU and tanh are plain torch, all else is pyengine.ops.
"""

import os
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ...errors import RequestError
from ...guard import inference
from ...layers import Conv2d, GroupNorm, PointwiseConv2d
from ...weights import read_config
from ..base import Model, Output, raise_problems, to_nchw
from .kl import PIECE, DecoderOutput

#: Latents are bent to within this, smoothly, before they are decoded.
CLAMP = 3
#: Of the norm in a block's pooled branch: groups, how much wider it is, torch's own epsilon.
POOL_GROUPS, POOL_WIDTH, POOL_EPS = 4, 4, 1e-5

_CHANNELS = {"min": 1, "max": 8192, "max_items": 16}
_BLOCKS = {"min": 0, "max": 64, "max_items": 16}


@dataclass(frozen=True)
class AutoencoderTinyConfig:
    """config.json; names and defaults are diffusers', and use_midblock_gn.

    use_midblock_gn: whether the blocks at the latents' size have a branch with a norm, as TAEF2's.
    """

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("AutoencoderTiny",)
    #: What diffusers writes beside: the decoder's channels again.
    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset({"block_out_channels"})

    in_channels: int = field(default=3, metadata=_CHANNELS)
    out_channels: int = field(default=3, metadata=_CHANNELS)
    encoder_block_out_channels: tuple[int, ...] = field(
        default=(64, 64, 64, 64), metadata=_CHANNELS
    )
    decoder_block_out_channels: tuple[int, ...] = field(
        default=(64, 64, 64, 64), metadata=_CHANNELS
    )
    act_fn: Literal["relu"] = "relu"
    upsample_fn: Literal["nearest"] = "nearest"
    latent_channels: int = field(default=4, metadata=_CHANNELS)
    upsampling_scaling_factor: Literal[2] = 2
    num_encoder_blocks: tuple[int, ...] = field(default=(1, 3, 3, 3), metadata=_BLOCKS)
    num_decoder_blocks: tuple[int, ...] = field(default=(3, 3, 3, 1), metadata=_BLOCKS)
    #: Of scale_latents and unscale_latents, which pipelines do not use.
    latent_magnitude: float = field(default=3, metadata={"min": 1e-6, "max": 1e6})
    latent_shift: float = field(default=0.5, metadata={"min": -1e6, "max": 1e6})
    force_upcast: bool = False
    scaling_factor: float = field(default=1.0, metadata={"min": 1e-6, "max": 1e6})
    shift_factor: float = field(default=0.0, metadata={"min": -1e6, "max": 1e6})
    use_midblock_gn: bool = False

    #: As of AutoencoderKL's config: no tiny one has any.
    latents_mean: ClassVar[None] = None
    latents_std: ClassVar[None] = None

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "AutoencoderTinyConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        problems = []
        for side in ("encoder", "decoder"):
            widths = getattr(self, f"{side}_block_out_channels")
            blocks = getattr(self, f"num_{side}_blocks")
            if not widths or len(widths) != len(blocks):
                problems.append(
                    f"{side}_block_out_channels has {len(widths)} items and num_{side}_blocks"
                    f" {len(blocks)}, expected as many, at least one"
                )
            if len(set(widths)) > 1:
                problems.append(f"{side}_block_out_channels: expected one width, found {widths}")
        if len(self.num_encoder_blocks) != len(self.num_decoder_blocks):
            problems.append("num_encoder_blocks and num_decoder_blocks: expected as many items")
        raise_problems(problems)

    @property
    def block_out_channels(self) -> tuple[int, ...]:
        """The decoder's, as diffusers writes them."""
        return self.decoder_block_out_channels

    @property
    def downscale(self) -> int:
        """Pixels per latent pixel along each side."""
        return 1 << (len(self.num_decoder_blocks) - 1)


# --- network --------------------------------------------------------------------------------------


class _Block(nn.Module):
    """Three convolutions beside a skip; pooled: a branch with a norm before them."""

    def __init__(self, channels: int, pooled: bool):
        super().__init__()
        # Of an nn.Sequential, whose activations have positions too.
        self.conv = nn.ModuleDict({str(i): Conv2d(channels, channels) for i in (0, 2, 4)})
        self.pool = _Pool(channels) if pooled else None

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = self.pool(x)
        # A PReLU of slopes of 0, which the kernel applies to its sums: torch's would be a pass more
        # over memory, whose threads go on spinning beside ours.
        zeros = x.new_zeros(x.shape[3])
        y = self.conv["2"](self.conv["0"](x, slopes=zeros), slopes=zeros)
        made: Tensor = self.conv["4"](y, residual=x).relu_()
        return made


class _Pool(nn.Module):
    """x + the branch: a norm and ReLU between matrix products over the channels."""

    def __init__(self, channels: int):
        super().__init__()
        wide = POOL_WIDTH * channels
        self.add_module("0", PointwiseConv2d(channels, wide, bias=False))
        self.add_module("1", GroupNorm(POOL_GROUPS, wide, POOL_EPS))
        self.add_module("3", PointwiseConv2d(wide, channels, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        first, norm, last = (self.get_submodule(name) for name in "013")
        made: Tensor = last(norm(first(x)).relu_(), residual=x)
        return made


class _Unbiased(Conv2d):
    """A convolution without a bias."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__(in_channels, out_channels, stride=stride)
        del self.bias
        self.register_parameter("bias", None)

    def forward(self, x: Tensor, **around: Any) -> Tensor:
        # What a bias would tell: how many of the last panel's channels are padding.
        return super().forward(x, out_channels=self.out_channels, **around)


class _Stack(nn.Module):
    """diffusers' nn.Sequential of one half: what has weights, by position."""

    def __init__(self, layers: dict[int, nn.Module]):
        super().__init__()
        self.layers = nn.ModuleDict({str(i): layer for i, layer in layers.items()})


class _Encoder(_Stack):
    def __init__(self, c: AutoencoderTinyConfig):
        layers: list[nn.Module] = []
        last = len(c.num_encoder_blocks) - 1
        width = c.encoder_block_out_channels[-1]
        for level, count in enumerate(c.num_encoder_blocks):
            layers.append(
                _Unbiased(width, width, stride=2) if level else Conv2d(c.in_channels, width)
            )
            pooled = c.use_midblock_gn and level == last
            layers += [_Block(width, pooled) for _ in range(count)]
        layers.append(Conv2d(width, c.latent_channels))
        super().__init__(dict(enumerate(layers)))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers.values():
            x = layer(x)
        return x


class _Decoder(_Stack):
    def __init__(self, c: AutoencoderTinyConfig):
        width = c.decoder_block_out_channels[0]
        layers: dict[int, nn.Module] = {0: Conv2d(c.latent_channels, width)}
        position, last = 2, len(c.num_decoder_blocks) - 1  # an activation follows the first
        for level, count in enumerate(c.num_decoder_blocks):
            for _ in range(count):
                layers[position] = _Block(width, c.use_midblock_gn and level == 0)
                position += 1
            if level < last:
                position += 1  # nn.Upsample
                layers[position] = _Unbiased(width, width)
            else:
                layers[position] = Conv2d(width, c.out_channels)
            position += 1
        super().__init__(layers)

    def forward(self, z: Tensor) -> Tensor:
        for name, layer in self.layers.items():
            z = layer(z, upsample=True) if isinstance(layer, _Unbiased) else layer(z)
            if name == "0":
                z = z.relu_()
        return z


# --- model ----------------------------------------------------------------------------------------


@dataclass
class AutoencoderTinyOutput(Output):
    """latents: [N, latent_channels, h, w]."""

    latents: Tensor


class AutoencoderTiny(Model):
    """Pictures to latents and back, both in one pass of a few convolutions.

    vae = AutoencoderTiny.from_pretrained("taesd")
    latents = vae.encode(x).latents          # of the U-Net's scale, times config.scaling_factor
    pictures = vae.decode(latents).sample    # -1..1
    """

    config_class = AutoencoderTinyConfig
    hides_infinity = True

    def __init__(self, config: AutoencoderTinyConfig):
        super().__init__(config)
        self.encoder: _Encoder | None = _Encoder(config)
        self.decoder: _Decoder | None = _Decoder(config)

    @classmethod
    def from_files(
        cls,
        encoder: str | os.PathLike[str] | None = None,
        decoder: str | os.PathLike[str] | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> "AutoencoderTiny":
        """The model of the publisher's files.

        Args:
            encoder, decoder: the publisher's files, one of each half, or one file of both given as
                either; without a half it does not encode or decode.
            dtype: float32 unless told.
            device: where it computes: "cpu", "cuda".

        Raises:
            CheckpointError: for other files.
        """
        from .tiny_files import load

        made: AutoencoderTiny = load(cls, encoder, decoder, dtype or torch.float32, device)
        return made

    @inference
    def encode(
        self, x: Tensor, return_dict: bool = True
    ) -> "AutoencoderTinyOutput | tuple[Tensor, ...]":
        """Latents of pictures.

        Args:
            x: [N, in_channels, H, W] in -1..1.
            return_dict: False gives a tuple in place of an object with names.

        Returns:
            [N, latent_channels, h, w], as `latents` of the result; h and w are H and W over
            downscale, rounded up.
        """
        if self.encoder is None:
            raise RequestError("x: expected a model with an encoder; the file has a decoder alone")
        x = self._nhwc(x, self.config.in_channels, "x")
        with self.arena.use():
            latents = to_nchw(self.encoder(x * 0.5 + 0.5))
        out = AutoencoderTinyOutput(latents)
        return out if return_dict else out.to_tuple()

    @inference
    def decode(self, x: Tensor, return_dict: bool = True) -> "DecoderOutput | tuple[Tensor, ...]":
        """Pictures of latents.

        Args:
            x: [N, latent_channels, h, w].
            return_dict: False gives a tuple in place of an object with names.

        Returns:
            [N, out_channels, h * downscale, w * downscale], about -1..1, as `sample` of the result.
        """
        if self.decoder is None:
            raise RequestError("x: expected a model with a decoder; the file has an encoder alone")
        x = self._nhwc(x, self.config.latent_channels, "x")
        with self.arena.use():
            made = to_nchw(self.decoder(_clamped(x))).mul_(2).sub_(1)
        out = DecoderOutput(made)
        return out if return_dict else out.to_tuple()

    def enable_tiling(self) -> None:
        """Accepted: a picture is decoded whole, in memory that AutoencoderKL takes for a tile."""

    def disable_tiling(self) -> None:
        """Accepted: see enable_tiling."""

    def enable_slicing(self) -> None:
        """Accepted, as diffusers has it: pipelines encode and decode pictures one by one."""

    def disable_slicing(self) -> None:
        """Accepted: see enable_slicing."""

    def _nhwc(self, x: Tensor, channels: int, name: str) -> Tensor:
        if x.dim() != 4 or x.shape[1] != channels or not x.numel():
            raise RequestError(f"{name}: expected [N, {channels}, H, W], got {list(x.shape)}")
        return x.to(device=self.device, dtype=self.dtype).permute(0, 2, 3, 1).contiguous()


def _clamped(x: Tensor) -> Tensor:
    """tanh(x / 3) * 3 of each picture of [N, ...], of the same bits in any batch, on any threads:
    torch's has other last bits where a thread's share ends, and pieces this small are not shared.
    """
    rows = [torch.cat([p.tanh() for p in row.split(PIECE)]) for row in (x / CLAMP).flatten(1)]
    return torch.stack(rows).view(x.shape) * CLAMP
