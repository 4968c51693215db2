"""The blocks of aMUSEd's transformer: see uvit.py. Pictures are [N, H, W, C].

What a block is told by the text and the condition is made by its `conditions`, once per run.
"""

from typing import Any, Literal, cast

import torch.nn.functional as F
from torch import Tensor, nn

from ... import ops
from ...layers import LayerNorm, Linear, RMSNorm, WideEmbedding, _parameter
from .layers import Pointwise
from .ops import depthwise_conv2d, global_response_norm
from .uvit_config import UVit2DConfig

#: diffusers' epsilons that no config key changes.
BLOCK_EPS = 1e-6
RESPONSE_EPS = 1e-6
#: How much wider a residual block is between its two linear layers.
RESIDUAL_WIDTH = 4


class _Attention(nn.Module):
    """Multi-head attention whose layers all have a bias, or none."""

    def __init__(self, width: int, heads: int, context_width: int, bias: bool):
        super().__init__()
        self.heads = heads
        self.to_q = Linear(width, width, bias=bias)
        self.to_k = Linear(context_width, width, bias=bias)
        self.to_v = Linear(context_width, width, bias=bias)
        self.to_out = nn.ModuleList([Linear(width, width, bias=bias)])

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        return self.to_k(context), self.to_v(context)

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor], residual: Tensor) -> Tensor:
        y = ops.attention(self.to_q(x), *keys_values, self.heads)
        out: Tensor = self.to_out[0](y, residual=residual)
        return out


class _AdaptiveNorm(nn.Module):
    """A norm whose result is scaled and shifted by what the picture is conditioned on."""

    def __init__(self, c: UVit2DConfig, kind: Literal["rms_norm", "layer_norm"]):
        super().__init__()
        self.linear = Linear(c.hidden_size, 2 * c.hidden_size, bias=c.use_bias)
        affine = c.ln_elementwise_affine
        self.norm: RMSNorm | LayerNorm
        if kind == "rms_norm":
            self.norm = RMSNorm(c.hidden_size, c.layer_norm_eps, affine)
        else:
            self.norm = LayerNorm(c.hidden_size, c.layer_norm_eps, affine, c.use_bias)

    def scale_shift(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Two [N, 1, hidden_size] for condition [N, hidden_size], after its SiLU."""
        scale, shift = self.linear(condition)[:, None].chunk(2, dim=-1)
        return 1 + scale, shift

    def forward(self, x: Tensor, scale_shift: tuple[Tensor, Tensor]) -> Tensor:
        scale, shift = scale_shift
        return self.norm(x) * scale + shift


class _GEGLU(nn.Module):
    def __init__(self, width: int, inner: int, bias: bool):
        super().__init__()
        self.proj = Linear(width, 2 * inner, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return ops.geglu(self.proj(x))


class _FeedForward(nn.Module):
    def __init__(self, width: int, inner: int, bias: bool):
        super().__init__()
        # Number 1 is dropout, which has no tensors and does nothing here.
        self.net = nn.ModuleList(
            [_GEGLU(width, inner, bias), nn.Identity(), Linear(inner, width, bias=bias)]
        )

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        y: Tensor = self.net[2](self.net[0](x), residual=residual)
        return y


class TransformerLayer(nn.Module):
    """Self-attention, attention to the text, feed-forward, each after an adaptive norm."""

    def __init__(self, c: UVit2DConfig):
        super().__init__()
        width, heads, bias = c.hidden_size, c.num_attention_heads, c.use_bias
        self.norm1 = _AdaptiveNorm(c, "rms_norm")
        self.attn1 = _Attention(width, heads, width, bias)
        self.norm2 = _AdaptiveNorm(c, "rms_norm")
        self.attn2 = _Attention(width, heads, width, bias)
        self.norm3 = _AdaptiveNorm(c, "layer_norm")
        self.ff = _FeedForward(width, c.intermediate_size, bias)

    def conditions(self, text: Tensor, condition: Tensor) -> tuple[Any, ...]:
        """What `forward` is told by text [N, L, hidden_size] and condition [N, hidden_size]."""
        norms = (norm.scale_shift(condition) for norm in (self.norm1, self.norm2, self.norm3))
        return *norms, self.attn2.keys_values(text)

    def forward(self, x: Tensor, conditions: tuple[Any, ...]) -> Tensor:
        first, second, third, keys_values = conditions
        h = self.norm1(x, first)
        x = self.attn1(h, self.attn1.keys_values(h), residual=x)
        x = self.attn2(self.norm2(x, second), keys_values, residual=x)
        y: Tensor = self.ff(self.norm3(x, third), residual=x)
        return y


class _ResidualBlock(nn.Module):
    """A ConvNeXt block, scaled and shifted by the condition. Woo et al. 2023, arXiv:2301.00808."""

    def __init__(self, c: UVit2DConfig):
        super().__init__()
        channels, bias = c.block_out_channels, c.use_bias
        inner = RESIDUAL_WIDTH * channels
        self.depthwise = _Depthwise(channels, bias)
        self.norm = RMSNorm(channels, c.layer_norm_eps, c.ln_elementwise_affine)
        self.channelwise_linear_1 = Linear(channels, inner, bias=bias)
        self.channelwise_norm = _ResponseNorm(inner)
        self.channelwise_linear_2 = Linear(inner, channels, bias=bias)
        self.cond_embeds_mapper = Linear(c.hidden_size, 2 * channels, bias=bias)

    def conditions(self, text: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        scale, shift = self.cond_embeds_mapper(condition)[:, None, None].chunk(2, dim=-1)
        return 1 + scale, shift

    def forward(self, x: Tensor, conditions: tuple[Tensor, Tensor]) -> Tensor:
        h = self.channelwise_linear_1(self.norm(self.depthwise(x)), activation="gelu")
        x = self.channelwise_linear_2(self.channelwise_norm(h), residual=x)
        scale, shift = conditions
        return x * scale + shift


class _Depthwise(nn.Module):
    def __init__(self, channels: int, bias: bool):
        super().__init__()
        self.weight = _parameter(channels, 1, 3, 3)
        self.bias = _parameter(channels) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return depthwise_conv2d(x, self.weight, self.bias)


class _ResponseNorm(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.gamma = _parameter(1, 1, 1, channels)
        self.beta = _parameter(1, 1, 1, channels)

    def forward(self, x: Tensor) -> Tensor:
        return global_response_norm(x, self.gamma.flatten(), self.beta.flatten(), RESPONSE_EPS)


class _TextBlock(nn.Module):
    """Twice attention to the text, each after a norm, each added to x."""

    def __init__(self, c: UVit2DConfig):
        super().__init__()
        width, heads, bias = c.block_out_channels, c.block_num_heads, c.use_bias
        self.kv_mapper = Linear(c.hidden_size, width, bias=bias) if c.hidden_size != width else None
        self.norm1 = RMSNorm(width, BLOCK_EPS)
        self.attn1 = _Attention(width, heads, width, bias)
        self.norm2 = RMSNorm(width, BLOCK_EPS)
        self.attn2 = _Attention(width, heads, width, bias)

    def conditions(self, text: Tensor, condition: Tensor) -> tuple[Any, ...]:
        if self.kv_mapper is not None:
            text = self.kv_mapper(F.silu(text))
        return self.attn1.keys_values(text), self.attn2.keys_values(text)

    def forward(self, x: Tensor, conditions: tuple[Any, ...]) -> Tensor:
        n, height, width, channels = x.shape
        x = x.view(n, height * width, channels)
        x = self.attn1(self.norm1(x), conditions[0], residual=x)
        x = self.attn2(self.norm2(x), conditions[1], residual=x)
        return x.view(n, height, width, channels)


class _Downsample(nn.Module):
    """A norm and a 2x2 convolution of stride 2: each 2x2 pixels to one, by a linear layer."""

    def __init__(self, c: UVit2DConfig):
        super().__init__()
        channels = c.block_out_channels
        self.norm = RMSNorm(channels, c.layer_norm_eps, c.ln_elementwise_affine)
        self.conv = _FromPatches(4 * channels, channels, bias=c.use_bias)

    def forward(self, x: Tensor) -> Tensor:
        n, height, width, channels = x.shape
        x = self.norm(x).view(n, height // 2, 2, width // 2, 2, channels).transpose(2, 3)
        return self.conv(x.reshape(n, height // 2, width // 2, -1))


class _Upsample(nn.Module):
    """A norm and a transposed 2x2 convolution of stride 2: each pixel to 2x2, by a linear layer."""

    def __init__(self, c: UVit2DConfig):
        super().__init__()
        channels = c.block_out_channels
        self.norm = RMSNorm(channels, c.layer_norm_eps, c.ln_elementwise_affine)
        self.conv = _ToPatches(channels, 4 * channels, bias=c.use_bias)

    def forward(self, x: Tensor) -> Tensor:
        n, height, width, channels = x.shape
        y = self.conv(self.norm(x)).view(n, height, width, 2, 2, channels).transpose(2, 3)
        return y.reshape(n, 2 * height, 2 * width, channels)


class _FromPatches(Linear):
    """From 2x2 pixels side by side in C to one; saved as a convolution, [out, in, 2, 2]."""

    def _saved_shape(self) -> tuple[int, ...]:
        return self.out_features, self.in_features // 4, 2, 2

    def _arranged(self) -> tuple[Tensor, Tensor | None]:
        return self.weight.permute(0, 2, 3, 1).flatten(1), self.bias


class _ToPatches(Linear):
    """From a pixel to 2x2 side by side in C; saved as a transposed convolution, [in, out, 2, 2]."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True):
        super().__init__(in_features, out_features, bias=False)
        if bias:
            self.bias = _parameter(out_features // 4)

    def _saved_shape(self) -> tuple[int, ...]:
        return self.in_features, self.out_features // 4, 2, 2

    def _arranged(self) -> tuple[Tensor, Tensor | None]:
        weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2)
        return weight, None if self.bias is None else self.bias.repeat(4)


class Block(nn.Module):
    def __init__(self, c: UVit2DConfig, downsample: bool, upsample: bool):
        super().__init__()
        self.downsample = _Downsample(c) if downsample else None
        self.res_blocks = nn.ModuleList(_ResidualBlock(c) for _ in range(c.num_res_blocks))
        self.attention_blocks = nn.ModuleList(_TextBlock(c) for _ in range(c.num_res_blocks))
        self.upsample = _Upsample(c) if upsample else None

    def conditions(self, text: Tensor, condition: Tensor) -> list[Any]:
        pairs = zip(self.res_blocks, self.attention_blocks, strict=True)
        told = text, condition
        return [
            (cast(_ResidualBlock, r).conditions(*told), cast(_TextBlock, a).conditions(*told))
            for r, a in pairs
        ]

    def forward(self, x: Tensor, conditions: list[Any]) -> Tensor:
        if self.downsample is not None:
            x = self.downsample(x)
        pairs = zip(self.res_blocks, self.attention_blocks, conditions, strict=True)
        for residual, attention, (first, second) in pairs:
            x = attention(residual(x, first), second)
        return x if self.upsample is None else self.upsample(x)


class Embed(nn.Module):
    def __init__(self, c: UVit2DConfig):
        super().__init__()
        self.embeddings = WideEmbedding(c.vocab_size, c.in_channels)
        self.layer_norm = RMSNorm(c.in_channels, c.layer_norm_eps, c.ln_elementwise_affine)
        self.conv = Pointwise(c.in_channels, c.block_out_channels, bias=c.use_bias)

    def forward(self, ids: Tensor) -> Tensor:
        return self.conv(self.layer_norm(self.embeddings(ids)))


class Head(nn.Module):
    def __init__(self, c: UVit2DConfig):
        super().__init__()
        self.conv1 = Pointwise(c.block_out_channels, c.in_channels, bias=c.use_bias)
        self.layer_norm = RMSNorm(c.in_channels, c.layer_norm_eps, c.ln_elementwise_affine)
        self.conv2 = Pointwise(c.in_channels, c.codebook_size, bias=c.use_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.layer_norm(self.conv1(x)))


class ConditionEmbedding(nn.Module):
    def __init__(self, c: UVit2DConfig):
        super().__init__()
        width = c.micro_cond_embed_dim + c.cond_embed_dim
        self.linear_1 = Linear(width, c.hidden_size, bias=c.use_bias)
        self.linear_2 = Linear(c.hidden_size, c.hidden_size, bias=c.use_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(self.linear_1(x, activation="silu"))
