"""The VQGAN of Janus: its tokens to pictures and back.

Esser et al. 2020, arXiv:2012.09841; Sun et al. 2024, arXiv:2406.06525 (LlamaGen's, which this is).
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ... import ops
from ...errors import RequestError
from ...finite import check_finite
from ...guard import inference
from ...layers import Conv2d, GroupNorm, PointwiseConv2d, WideEmbedding
from ..base import TRANSFORMERS_KEYS, raise_problems
from ..blocks.resnet import Downsample2D, Upsample2D

#: No config key says these.
GROUPS = 32
EPS = 1e-6


def _bounds(low: float, high: float) -> dict[str, Any]:
    return {"min": low, "max": high}


_CHANNELS = {"min": 1, "max": 8192, "max_items": 16}


@dataclass(frozen=True)
class JanusVQConfig:
    """vq_config of a Janus' config.json; names and defaults are transformers'."""

    IGNORED_KEYS: ClassVar[frozenset[str]] = TRANSFORMERS_KEYS | frozenset(
        {"depth", "dropout", "initializer_range", "num_patches"}
    )

    embed_dim: int = field(default=8, metadata=_CHANNELS)
    num_embeddings: int = field(default=16384, metadata=_bounds(1, 1 << 20))
    double_latent: Literal[False] = False
    latent_channels: int = field(default=256, metadata=_CHANNELS)
    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    base_channels: int = field(default=128, metadata=_CHANNELS)
    channel_multiplier: tuple[int, ...] = field(
        default=(1, 1, 2, 2, 4), metadata={"min": 1, "max": 64, "max_items": 16}
    )
    num_res_blocks: int = field(default=2, metadata=_bounds(1, 32))
    projection_dim: int = field(default=2048, metadata=_bounds(1, 16384))
    num_hidden_layers: int = field(default=2, metadata=_bounds(1, 64))
    hidden_act: Literal["gelu"] = "gelu"
    image_token_embed_dim: int = field(default=2048, metadata=_bounds(1, 16384))
    model_type: Literal["janus_vqgan"] = "janus_vqgan"

    def __post_init__(self) -> None:
        problems = []
        if not self.channel_multiplier:
            problems.append("channel_multiplier is empty")
        for i, channels in enumerate(self.widths):
            if channels % GROUPS or channels > 8192:
                problems.append(
                    f"base_channels times channel_multiplier[{i}] is {channels}, expected a"
                    f" multiple of {GROUPS} up to 8192"
                )
        raise_problems(problems)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every level."""
        return tuple(self.base_channels * m for m in self.channel_multiplier)

    @property
    def downscale(self) -> int:
        """Pixels per token along each side."""
        return int(2 ** (len(self.channel_multiplier) - 1))


# --- network --------------------------------------------------------------------------------------


class _Residual(nn.Module):
    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.norm1 = GroupNorm(GROUPS, in_channels, EPS)
        self.conv1 = Conv2d(in_channels, out_channels)
        self.norm2 = GroupNorm(GROUPS, out_channels, EPS)
        self.conv2 = Conv2d(out_channels, out_channels)
        same = in_channels == out_channels
        self.nin_shortcut = None if same else PointwiseConv2d(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x, **self.norm1.scale_shift(x), silu=True)
        residual = x if self.nin_shortcut is None else self.nin_shortcut(x)
        return self.conv2(h, **self.norm2.scale_shift(h), silu=True, residual=residual)


class _Attention(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.norm = GroupNorm(GROUPS, channels, EPS)
        self.q = PointwiseConv2d(channels, channels)
        self.k = PointwiseConv2d(channels, channels)
        self.v = PointwiseConv2d(channels, channels)
        self.proj_out = PointwiseConv2d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x).flatten(1, 2)
        y = ops.attention(self.q(h), self.k(h), self.v(h), 1)
        return self.proj_out(y, residual=x.flatten(1, 2)).view(x.shape)


class _Level(nn.Module):
    """Residual blocks of one resolution, each followed by attention where `attends`."""

    def __init__(self, in_channels: int, channels: int, count: int, attends: bool):
        super().__init__()
        widths = [in_channels, *[channels] * (count - 1)]
        self.block = nn.ModuleList(_Residual(width, channels) for width in widths)
        self.attn = nn.ModuleList(_Attention(channels) for _ in range(count if attends else 0))

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[i](x)
        return x


class _Down(_Level):
    def __init__(self, in_channels: int, channels: int, count: int, last: bool):
        super().__init__(in_channels, channels, count, attends=last)
        self.downsample = None if last else Downsample2D(channels, padding=0)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x if self.downsample is None else self.downsample(x)


class _Up(_Level):
    def __init__(self, in_channels: int, channels: int, count: int, first: bool, last: bool):
        super().__init__(in_channels, channels, count, attends=first)
        self.upsample = None if last else Upsample2D(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        return x if self.upsample is None else self.upsample(x)


class _Mid(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.block_1 = _Residual(channels, channels)
        self.attn_1 = _Attention(channels)
        self.block_2 = _Residual(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return y


class _Encoder(nn.Module):
    def __init__(self, c: JanusVQConfig):
        super().__init__()
        widths, last = c.widths, len(c.widths) - 1
        self.conv_in = Conv2d(c.in_channels, c.base_channels)
        before = (c.base_channels, *widths)
        self.down = nn.ModuleList(
            _Down(before[i], widths[i], c.num_res_blocks, i == last) for i in range(last + 1)
        )
        self.mid = _Mid(widths[-1])
        self.norm_out = GroupNorm(GROUPS, widths[-1], EPS)
        self.conv_out = Conv2d(widths[-1], c.latent_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level in self.down:
            x = level(x)
        x = self.mid(x)
        return self.conv_out(x, **self.norm_out.scale_shift(x), silu=True)


class _Decoder(nn.Module):
    def __init__(self, c: JanusVQConfig):
        super().__init__()
        widths, last = c.widths[::-1], len(c.widths) - 1
        self.conv_in = Conv2d(c.latent_channels, widths[0])
        self.mid = _Mid(widths[0])
        before = (widths[0], *widths)
        self.up = nn.ModuleList(
            _Up(before[i], widths[i], c.num_res_blocks + 1, i == 0, i == last)
            for i in range(last + 1)
        )
        self.norm_out = GroupNorm(GROUPS, widths[-1], EPS)
        self.conv_out = Conv2d(widths[-1], c.out_channels)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid(self.conv_in(z))
        for level in self.up:
            x = level(x)
        return self.conv_out(x, **self.norm_out.scale_shift(x), silu=True)


class _Codebook(nn.Module):
    def __init__(self, count: int, width: int):
        super().__init__()
        self.embedding = WideEmbedding(count, width)


class JanusVQ(nn.Module):
    """transformers' JanusVQVAE, for pictures of any size in tokens."""

    def __init__(self, config: JanusVQConfig):
        super().__init__()
        c = self.config = config
        self.encoder = _Encoder(c)
        self.quant_conv = PointwiseConv2d(c.latent_channels, c.embed_dim)
        self.quantize = _Codebook(c.num_embeddings, c.embed_dim)
        self.post_quant_conv = PointwiseConv2d(c.embed_dim, c.latent_channels)
        self.decoder = _Decoder(c)
        self._table: Tensor | None = None

    def pack(self) -> None:
        """Puts the convolution before the decoder into the table of codes, once."""
        self._table = self._fold()

    def _fold(self) -> Tensor:
        # Codes are used at length 1, though they are looked for as they are saved.
        return self.post_quant_conv(F.normalize(self.quantize.embedding.weight, dim=-1))

    @inference
    def encode_tokens(self, x: Tensor) -> Tensor:
        """x: [N, 3, H, W] in -1..1 -> [N, h, w] int64, the entries nearest to the latents."""
        weight = self.quantize.embedding.weight
        x = x.to(weight.device, weight.dtype).permute(0, 2, 3, 1).contiguous()
        if min(x.shape[1:3]) < self.config.downscale:
            raise RequestError(
                f"x: {x.shape[1]}x{x.shape[2]} pixels, expected at least"
                f" {self.config.downscale}x{self.config.downscale}"
            )
        latents = self.quant_conv(self.encoder(x))
        check_finite("the encoder's latents", latents)  # no entry is the nearest to NaN
        return ops.vq_argmin(latents, weight)

    @inference
    def decode_tokens(self, tokens: Tensor) -> Tensor:
        """tokens: [N, h, w] int64 -> [N, 3, h * downscale, w * downscale], about -1..1."""
        table = self._fold() if self._table is None else self._table
        x: Tensor = self.decoder(ops.vq_decode(tokens, table))
        return x.permute(0, 3, 1, 2).contiguous()
