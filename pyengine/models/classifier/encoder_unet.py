"""A classifier of noised pictures: the way down of a U-Net, and one vector for the picture.

Dhariwal & Nichol 2021, arXiv:2105.05233, sec. 4.2 (ADM); layout of guided-diffusion's checkpoints.
"""

import torch
from torch import Tensor, nn

from ... import ops
from ...errors import RequestError
from ...guard import inference
from ...layers import Conv2d, GroupNorm, Linear, PointwiseConv2d
from ...ops._moves import halved
from ..base import Model
from ..blocks.embeddings import sinusoids
from ..blocks.resnet import modulated
from .config import GROUPS, EncoderUNetConfig
from .pooling import mean_of_pixels, relu

_EPS = 1e-5


def _named(**layers: nn.Module) -> nn.ModuleDict:
    """Layers under the numbers that nn.Sequential gave them: keywords are "n" and a number."""
    return nn.ModuleDict({name.removeprefix("n"): layer for name, layer in layers.items()})


class _Projection(Linear):
    """A Linear whose weight is saved as [out, in, 1], a convolution's over one dimension.

    heads: the outputs are queries, keys and values of each of so many heads in turn, and are made
    to be those of all heads; None: they are left as they lie.
    """

    def __init__(self, in_features: int, out_features: int, heads: int | None = None):
        self.heads = heads
        super().__init__(in_features, out_features)

    def _saved_shape(self) -> tuple[int, ...]:
        return self.out_features, self.in_features, 1

    def _arranged(self) -> tuple[Tensor, Tensor | None]:
        weight, bias = super()._arranged()
        if self.heads is None or bias is None:
            return weight, bias
        order = torch.arange(self.out_features, device=weight.device)
        order = order.view(self.heads, 3, -1).transpose(0, 1).reshape(-1)
        return weight[order], bias[order]


class _ResBlock(nn.Module):
    """guided-diffusion's ResBlock: models/blocks/resnet.py's arithmetic under other names."""

    def __init__(self, config: EncoderUNetConfig, channels: int, width: int, down: bool = False):
        super().__init__()
        self.scale_shift, self.down = config.use_scale_shift_norm, down
        told = 2 * width if self.scale_shift else width
        self.in_layers = _named(n0=GroupNorm(GROUPS, channels, _EPS), n2=Conv2d(channels, width))
        self.emb_layers = _named(n1=Linear(4 * config.model_channels, told))
        self.out_layers = _named(n0=GroupNorm(GROUPS, width, _EPS), n3=Conv2d(width, width))
        self.skip_connection = None if channels == width else PointwiseConv2d(channels, width)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """x: [N, H, W, C], emb: [N, 4 model_channels] -> [N, H', W', width]."""
        norm, conv = self.in_layers["0"], self.in_layers["2"]
        assert isinstance(norm, GroupNorm)
        told = self.emb_layers["1"](emb, silu=True)
        around = {} if self.scale_shift else {"channel_add": told}
        if self.down:
            x, h = halved(x), conv(halved(norm(x, silu=True)), **around)
        else:
            h = conv(x, **norm.scale_shift(x), silu=True, **around)
        norm = self.out_layers["0"]
        assert isinstance(norm, GroupNorm)
        inner = norm.scale_shift(h)
        if self.scale_shift:
            inner = modulated(inner, told)
        residual = x if self.skip_connection is None else self.skip_connection(x)
        y: Tensor = self.out_layers["3"](h, **inner, silu=True, residual=residual)
        return y


class _Attention(nn.Module):
    """Self-attention over the pixels, added to them."""

    def __init__(self, config: EncoderUNetConfig, width: int):
        super().__init__()
        self.heads = config.heads(width)
        self.norm = GroupNorm(GROUPS, width, _EPS)
        old = None if config.use_new_attention_order else self.heads
        self.qkv = _Projection(width, 3 * width, old)
        self.proj_out = _Projection(width, width)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)
        q, k, v = self.qkv(tokens, **self.norm.scale_shift(x)).chunk(3, dim=-1)
        y: Tensor = self.proj_out(ops.attention(q, k, v, self.heads), residual=tokens)
        return y.view(x.shape)


class _Downsample(nn.Module):
    """Half the size by a convolution or a mean."""

    def __init__(self, config: EncoderUNetConfig, width: int):
        super().__init__()
        self.op = Conv2d(width, width, stride=2) if config.conv_resample else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return halved(x) if self.op is None else self.op(x)


class _First(Conv2d):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:  # type: ignore[override]  # as its peers
        return super().forward(x)


class _AttentionPool(nn.Module):
    """Attention of the pixels' mean to it and them: CLIP's, Radford et al. 2021."""

    def __init__(self, config: EncoderUNetConfig, side: int, width: int):
        super().__init__()
        self.heads = config.heads(width)
        self.positional_embedding = nn.Parameter(
            torch.empty(width, side * side + 1, device="meta"), requires_grad=False
        )
        self.qkv_proj = _Projection(width, 3 * width)
        self.c_proj = _Projection(width, config.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, out_channels]."""
        tokens = torch.cat([mean_of_pixels(x)[:, None], x.flatten(1, 2)], dim=1)
        tokens = tokens + self.positional_embedding.T.to(tokens.dtype)
        q, k, v = self.qkv_proj(tokens).chunk(3, dim=-1)
        # The mean's row alone is used.
        first: Tensor = self.c_proj(ops.attention(q[:, :1], k, v, self.heads))
        return first[:, 0]


class EncoderUNetModel(Model):
    """guided-diffusion's EncoderUNetModel: log-probabilities of classes, but for a constant."""

    config_class = EncoderUNetConfig
    config: EncoderUNetConfig

    def __init__(self, config: EncoderUNetConfig):
        super().__init__(config)
        c, width, emb = config, config.widths[0], 4 * config.model_channels
        self.time_embed = _named(n0=Linear(c.model_channels, emb), n2=Linear(emb, emb))
        self.input_blocks = nn.ModuleList([nn.ModuleList([_First(c.in_channels, width)])])
        features = [width]
        for level, after in enumerate(c.widths):
            for _ in range(c.num_res_blocks):
                layers: list[nn.Module] = [_ResBlock(c, width, after)]
                width = after
                if 1 << level in c.attention_resolutions:
                    layers.append(_Attention(c, width))
                self.input_blocks.append(nn.ModuleList(layers))
                features.append(width)
            if level < len(c.widths) - 1:
                halving = (
                    _ResBlock(c, width, width, down=True)
                    if c.resblock_updown
                    else (_Downsample(c, width))
                )
                self.input_blocks.append(nn.ModuleList([halving]))
                features.append(width)
        self.middle_block = nn.ModuleList(
            [_ResBlock(c, width, width), _Attention(c, width), _ResBlock(c, width, width)]
        )
        self.out = self._head(width, sum(features) + width)

    def _head(self, width: int, features: int) -> nn.ModuleDict:
        c, inner = self.config, 2048
        if c.pool == "adaptive":
            last = PointwiseConv2d(width, c.out_channels)
            return _named(n0=GroupNorm(GROUPS, width, _EPS), n3=last)
        if c.pool == "attention":
            side = c.image_size
            for _ in range(len(c.widths) - 1):
                side //= 2
            pool = _AttentionPool(c, side, width)
            return _named(n0=GroupNorm(GROUPS, width, _EPS), n2=pool)
        if c.pool == "spatial":
            return _named(n0=Linear(features, inner), n2=Linear(inner, c.out_channels))
        return _named(
            n0=Linear(features, inner),
            n1=GroupNorm(GROUPS, inner, _EPS),
            n3=Linear(inner, c.out_channels),
        )

    @inference
    def forward(self, x: Tensor, timesteps: Tensor | float) -> Tensor:
        """Logits of noised pictures.

        Args:
            x: [N, in_channels, image_size, image_size].
            timesteps: a number or [N], of training's schedule.

        Returns:
            [N, out_channels].

        Raises:
            RequestError: for other shapes.
        """
        c, n = self.config, len(x)
        if x.dim() != 4 or list(x.shape[1:]) != [c.in_channels, c.image_size, c.image_size]:
            raise RequestError(
                f"x: expected [N, {c.in_channels}, {c.image_size}, {c.image_size}], got"
                f" {list(x.shape)}"
            )
        t = torch.as_tensor(timesteps, device=self.device).reshape(-1)
        if len(t) not in (1, n):
            raise RequestError(f"timesteps: expected a number or [{n}], got {list(t.shape)}")
        waves = sinusoids(t, c.model_channels, True, 0).to(self.dtype)
        emb = self.time_embed["2"](self.time_embed["0"](waves, activation="silu"))
        emb = emb.expand(n, -1).contiguous()
        x = x.to(device=self.device, dtype=self.dtype).permute(0, 2, 3, 1).contiguous()
        with self.arena.use():
            return self._run(x, emb).clone()

    def _run(self, x: Tensor, emb: Tensor) -> Tensor:
        means: list[Tensor] = []
        spatial = self.config.pool.startswith("spatial")
        for block in self.input_blocks:
            for layer in block:  # type: ignore[attr-defined]  # a ModuleList
                x = layer(x, emb)
            if spatial:
                means.append(mean_of_pixels(x))
        for layer in self.middle_block:
            x = layer(x, emb)
        return self._pooled(torch.cat([*means, mean_of_pixels(x)], dim=1) if spatial else x)

    def _pooled(self, x: Tensor) -> Tensor:
        out, y = self.out, x
        if self.config.pool == "adaptive":
            y = mean_of_pixels(out["0"](x, silu=True))
            return out["3"](y[:, None])[:, 0]  # type: ignore[no-any-return]  # a Linear's
        if self.config.pool == "attention":
            return out["2"](out["0"](x, silu=True))  # type: ignore[no-any-return]  # a Tensor
        h = out["0"](x)
        if self.config.pool == "spatial":
            return out["2"](relu(h))  # type: ignore[no-any-return]  # a Linear's
        wide = out["1"](h[:, None, None], silu=True)[:, 0, 0]
        return out["3"](wide)  # type: ignore[no-any-return]  # a Linear's
