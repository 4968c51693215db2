"""VQModel: pictures to tokens of a codebook, and back.

van den Oord et al. 2017, arXiv:1711.00937 (VQ-VAE); Esser et al. 2020, arXiv:2012.09841 (VQGAN).
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ... import ops
from ...errors import RequestError
from ...finite import check_finite
from ...guard import inference
from ...layers import Conv2d, PointwiseConv2d, WideEmbedding
from ...weights import read_config
from .._ids import check_ids
from ..base import Model, Output, raise_problems
from ..blocks.transformer import PictureAttention
from . import kl as autoencoder
from .kl import EPS, DecoderOutput, check_autoencoder
from .movq import GROUPS, SpatialDecoder

MAX_CODEBOOK = 1 << 20

_CHANNELS = {"min": 1, "max": 8192, "max_items": 16}
_TYPES = {"max_items": 16}
_FACTOR = {"min": 1e-6, "max": 1e6}

DownType = Literal["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]
UpType = Literal["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]


@dataclass(frozen=True)
class VQConfig:
    """vqvae/config.json; names and defaults are diffusers'."""

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("VQModel",)
    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset()

    in_channels: int = field(default=3, metadata=_CHANNELS)
    out_channels: int = field(default=3, metadata=_CHANNELS)
    down_block_types: tuple[DownType, ...] = field(default=("DownEncoderBlock2D",), metadata=_TYPES)
    up_block_types: tuple[UpType, ...] = field(default=("UpDecoderBlock2D",), metadata=_TYPES)
    block_out_channels: tuple[int, ...] = field(default=(64,), metadata=_CHANNELS)
    layers_per_block: int = field(default=1, metadata={"min": 1, "max": 32})
    act_fn: Literal["silu", "swish"] = "silu"
    latent_channels: int = field(default=3, metadata=_CHANNELS)
    sample_size: int = field(default=32, metadata={"min": 1, "max": 65536})
    num_vq_embeddings: int = field(default=256, metadata={"min": 1, "max": MAX_CODEBOOK})
    norm_num_groups: int = field(default=32, metadata=_CHANNELS)
    vq_embed_dim: int | None = field(default=None, metadata=_CHANNELS)
    scaling_factor: float = field(default=0.18215, metadata=_FACTOR)
    norm_type: Literal["group", "spatial"] = "group"
    mid_block_add_attention: bool = True
    #: Whether diffusers' `decode(force_not_quantize=True)` is given tokens rather than latents.
    lookup_from_codebook: bool = False
    #: Whether a half-precision pipeline should decode in float32; the pipeline decides.
    force_upcast: bool = False

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "VQConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        check_autoencoder(self)
        if self.norm_type == "spatial":
            raise_problems(self._spatial_problems())

    def _spatial_problems(self) -> list[str]:
        """The norms are told the code as the decoder is, and have groups of their own."""
        problems = []
        if self.embed_dim != self.latent_channels:
            problems.append(
                f"vq_embed_dim is {self.embed_dim}, expected latent_channels"
                f" {self.latent_channels} beside norm_type 'spatial'"
            )
        problems += [
            f"block_out_channels[{i}] {channels} is no multiple of the {GROUPS} groups of norm_type"
            " 'spatial'"
            for i, channels in enumerate(self.block_out_channels)
            if channels % GROUPS
        ]
        return problems

    @property
    def downscale(self) -> int:
        """Pixels per token along each side."""
        return int(2 ** (len(self.block_out_channels) - 1))

    @property
    def embed_dim(self) -> int:
        """Width of a codebook entry."""
        return self.latent_channels if self.vq_embed_dim is None else self.vq_embed_dim


# --- network --------------------------------------------------------------------------------------


def _attentions(c: VQConfig, channels: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(PictureAttention(channels, c.norm_num_groups, EPS) for _ in range(count))


def _interleaved(block: "_AttentionDownBlock | _AttentionUpBlock") -> list[nn.Module]:
    """Every residual block and its attention in turn."""
    pairs = zip(block.resnets, block.attentions, strict=True)
    return [layer for pair in pairs for layer in pair]


class _AttentionDownBlock(autoencoder._DownBlock):
    def __init__(self, c: VQConfig, level: int):
        super().__init__(c, level)
        self.attentions = _attentions(c, c.block_out_channels[level], len(self.resnets))

    def layers(self) -> tuple[nn.Module, ...]:
        return (*_interleaved(self), *self.downsamplers)


class _AttentionUpBlock(autoencoder._UpBlock):
    def __init__(self, c: VQConfig, level: int):
        super().__init__(c, level)
        self.attentions = _attentions(c, c.block_out_channels[level], len(self.resnets))

    def layers(self) -> tuple[nn.Module, ...]:
        return (*_interleaved(self), *self.upsamplers)


class _Encoder(autoencoder._Encoder):
    """The KL autoencoder's, with attention where the config asks and no variance at the end."""

    def __init__(self, c: VQConfig):
        super().__init__(c)
        for level, kind in enumerate(c.down_block_types):
            if kind == "AttnDownEncoderBlock2D":
                self.down_blocks[level] = _AttentionDownBlock(c, level)
        self.conv_out = Conv2d(c.block_out_channels[-1], c.latent_channels)


class _Decoder(autoencoder._Decoder):
    def __init__(self, c: VQConfig):
        super().__init__(c)
        for i, kind in enumerate(c.up_block_types):
            if kind == "AttnUpDecoderBlock2D":
                level = len(c.block_out_channels) - 1 - i
                self.up_blocks[i] = _AttentionUpBlock(c, level)


class _Codebook(nn.Module):
    def __init__(self, count: int, width: int):
        super().__init__()
        self.embedding = WideEmbedding(count, width)


# --- model ----------------------------------------------------------------------------------------


@dataclass
class VQEncoderOutput(Output):
    """latents: [N, vq_embed_dim, h, w], not yet quantised."""

    latents: Tensor


class VQModel(Model):
    """Pictures to tokens and back.

    tokens = vq.encode_tokens(pictures)      # [N, h, w] int64 in 0..num_vq_embeddings-1
    pictures = vq.decode_tokens(tokens)      # [N, out_channels, H, W]
    """

    config_class = VQConfig

    def __init__(self, config: VQConfig):
        super().__init__(config)
        c = config
        self.encoder = _Encoder(c)
        self.quant_conv = PointwiseConv2d(c.latent_channels, c.embed_dim)
        self.quantize = _Codebook(c.num_vq_embeddings, c.embed_dim)
        self.post_quant_conv = PointwiseConv2d(c.embed_dim, c.latent_channels)
        self.decoder = SpatialDecoder(c) if self.spatial else _Decoder(c)
        self._table: Tensor | None = None

    @property
    def spatial(self) -> bool:
        """Whether the decoder's norms are told the code: MoVQ's."""
        return bool(self.config.norm_type == "spatial")

    def pack(self) -> None:
        super().pack()
        if not self.spatial:
            self._table = self._fold()

    @inference
    def encode(self, x: Tensor, return_dict: bool = True) -> VQEncoderOutput | tuple[Any, ...]:
        """Latents of pictures, not yet quantised.

        Args:
            x: [N, in_channels, H, W]: VQGANs take pictures in -1..1, aMUSEd's in 0..1.
            return_dict: False gives a tuple in place of an object with names.

        Returns:
            [N, vq_embed_dim, h, w], as `latents` of the result; h = H // downscale and w = W //
            downscale.
        """
        latents = self._encode(x).permute(0, 3, 1, 2).contiguous()
        out = VQEncoderOutput(latents)
        return out if return_dict else out.to_tuple()

    @inference
    def encode_tokens(self, x: Tensor) -> Tensor:
        """x: [N, in_channels, H, W] -> [N, h, w] int64, the entries nearest to the latents.

        Raises NotFiniteError where the latents hold NaN or infinity.
        """
        return self._nearest(self._encode(x))

    @inference
    def quantize_latents(self, latents: Tensor) -> Tensor:
        """latents: [N, vq_embed_dim, h, w] -> [N, h, w] int64."""
        h = self._nhwc(latents, self.config.embed_dim, "latents")
        return self._nearest(h)

    @inference
    def decode(
        self, h: Tensor, force_not_quantize: bool = False, return_dict: bool = True
    ) -> DecoderOutput | tuple[Any, ...]:
        """Pictures of latents; of tokens: see `decode_tokens`.

        Args:
            h: [N, vq_embed_dim, h, w], latents.
            force_not_quantize: whether they are taken as they are, not quantised first.
            return_dict: False gives a tuple in place of an object with names.

        Returns:
            [N, out_channels, h * downscale, w * downscale], as `sample` of the result.
        """
        if force_not_quantize:
            return self._decode_code(self._nhwc(h, self.config.embed_dim, "h"), return_dict)
        return self._decode_entries(self.quantize_latents(h), return_dict)

    @inference
    def decode_tokens(
        self, tokens: Tensor, return_dict: bool = True
    ) -> DecoderOutput | tuple[Any, ...]:
        """Pictures of codebook entries.

        Args:
            tokens: [N, h, w] integers.
            return_dict: False gives a tuple in place of an object with names.

        Returns:
            [N, out_channels, h * downscale, w * downscale], as `sample` of the result.

        Raises:
            RequestError: for tokens that are no entry of the codebook.
        """
        return self._decode_entries(self._checked(tokens), return_dict)

    # --- inside, NHWC -----------------------------------------------------------------------------

    def _encode(self, x: Tensor) -> Tensor:
        x = self._nhwc(x, self.config.in_channels, "x")
        factor = self.config.downscale
        if min(x.shape[1:3]) < factor:
            raise RequestError(
                f"x: {x.shape[1]}x{x.shape[2]} pixels, expected at least {factor}x{factor}"
            )
        return self.quant_conv(self.encoder(x))

    def _nearest(self, latents: Tensor) -> Tensor:
        check_finite("the encoder's latents", latents)  # no entry is the nearest to NaN
        return ops.vq_argmin(latents, self.quantize.embedding.weight)

    def _fold(self) -> Tensor:
        """The codebook with the convolution before the decoder in it: [K, latent_channels]."""
        return self.post_quant_conv(self.quantize.embedding.weight)

    def _lookup(self, tokens: Tensor) -> Tensor:
        """Tokens to what the decoder begins with."""
        return ops.vq_decode(tokens, self._fold() if self._table is None else self._table)

    def _decode_code(self, code: Tensor, return_dict: bool) -> DecoderOutput | tuple[Any, ...]:
        z = self.post_quant_conv(code)
        return self._decode((z, code) if self.spatial else (z,), return_dict)

    def _decode_entries(self, tokens: Tensor, return_dict: bool) -> DecoderOutput | tuple[Any, ...]:
        if self.spatial:
            code = ops.vq_decode(tokens, self.quantize.embedding.weight)
            return self._decode_code(code, return_dict)
        return self._decode((self._lookup(tokens),), return_dict)

    def _decode(self, z: tuple[Tensor, ...], return_dict: bool) -> DecoderOutput | tuple[Any, ...]:
        out = DecoderOutput(self.decoder(*z).permute(0, 3, 1, 2).contiguous())
        return out if return_dict else out.to_tuple()

    def _nhwc(self, x: Tensor, channels: int, name: str) -> Tensor:
        if x.dim() != 4 or x.shape[1] != channels or not x.numel():
            raise RequestError(f"{name}: expected [N, {channels}, H, W], got {list(x.shape)}")
        return x.to(device=self.device, dtype=self.dtype).permute(0, 2, 3, 1).contiguous()

    def _checked(self, tokens: Tensor) -> Tensor:
        check_ids("tokens", tokens, self.config.num_vq_embeddings, "[N, h, w]")
        return tokens.to(self.device, torch.int64)
