"""guided-diffusion's EncoderUNetModel, to be trained: what pyengine.models reads, in plain torch.

Dhariwal & Nichol 2021, arXiv:2105.05233. Of its options those that the recipe uses: halving by
residual blocks, scale and shift from the time, pooling by attention.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional

GROUPS = 32


class ResBlock(nn.Module):
    """Two convolutions, the second told the time; with `down` at half the size."""

    def __init__(self, channels: int, told: int, out: int, down: bool = False):
        super().__init__()
        self.down = down
        self.in_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(told, 2 * out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(GROUPS, out), nn.SiLU(), nn.Identity(), nn.Conv2d(out, out, 3, padding=1)
        )
        same = out == channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out, 1)

    def forward(self, x: Any, told: Any) -> Any:
        h = self.in_layers[:2](x)
        if self.down:
            h, x = functional.avg_pool2d(h, 2), functional.avg_pool2d(x, 2)
        h = self.in_layers[2](h)
        scale, shift = self.emb_layers(told)[..., None, None].chunk(2, dim=1)
        h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        return self.skip_connection(x) + h


def attend(q: Any, k: Any, v: Any, heads: int) -> Any:
    """Attention over [N, C, L], the heads side by side in C."""
    n, width, length = q.shape
    q, k, v = (t.reshape(n * heads, width // heads, length) for t in (q, k, v))
    weight = (q.transpose(1, 2) @ k * (width // heads) ** -0.5).softmax(dim=-1)
    return (v @ weight.transpose(1, 2)).reshape(n, width, length)


class Attention(nn.Module):
    """Self-attention over pixels, added to them."""

    def __init__(self, channels: int, per_head: int):
        super().__init__()
        self.heads = channels // per_head
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Any) -> Any:
        flat = x.flatten(2)
        # Query, key and value of each head follow each other, as the published networks have them.
        each = self.qkv(self.norm(flat)).unflatten(1, (self.heads, 3, -1))
        q, k, v = (t.flatten(1, 2) for t in each.unbind(2))
        return x + self.proj_out(attend(q, k, v, self.heads)).view(x.shape)


class AttentionPool(nn.Module):
    """One vector of all pixels: what their mean attends to."""

    def __init__(self, side: int, channels: int, per_head: int, out: int):
        super().__init__()
        self.heads = channels // per_head
        self.positional_embedding = nn.Parameter(torch.randn(channels, side**2 + 1) / channels**0.5)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, out, 1)

    def forward(self, x: Any) -> Any:
        x = x.flatten(2)
        x = torch.cat([x.mean(dim=-1, keepdim=True), x], dim=-1) + self.positional_embedding
        q, k, v = self.qkv_proj(x).chunk(3, dim=1)
        return self.c_proj(attend(q, k, v, self.heads))[:, :, 0]


class Told(nn.Sequential):
    """Layers, of which the residual blocks are told the time."""

    def forward(self, x: Any, told: Any) -> Any:  # type: ignore[override]  # told besides
        for layer in self:
            x = layer(x, told) if isinstance(layer, ResBlock) else layer(x)
        return x


class EncoderUNet(nn.Module):
    """(noised latents [N, C, S, S], timesteps [N]) -> logits [N, classes]; config: the keywords of
    guided-diffusion's class, as pyengine.models.EncoderUNetConfig has them.
    """

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config = config
        width, per_head = config["model_channels"], config["num_head_channels"]
        told, ch, ds = 4 * width, config["channel_mult"][0] * width, 1
        self.time_embed = nn.Sequential(nn.Linear(width, told), nn.SiLU(), nn.Linear(told, told))
        blocks = [Told(nn.Conv2d(config["in_channels"], ch, 3, padding=1))]
        for level, times in enumerate(config["channel_mult"]):
            for _ in range(config["num_res_blocks"]):
                layers: list[nn.Module] = [ResBlock(ch, told, times * width)]
                ch = times * width
                if ds in config["attention_resolutions"]:
                    layers.append(Attention(ch, per_head))
                blocks.append(Told(*layers))
            if level + 1 < len(config["channel_mult"]):
                blocks.append(Told(ResBlock(ch, told, ch, down=True)))
                ds *= 2
        self.input_blocks = nn.ModuleList(blocks)
        self.middle_block = Told(
            ResBlock(ch, told, ch), Attention(ch, per_head), ResBlock(ch, told, ch)
        )
        pool = AttentionPool(config["image_size"] // ds, ch, per_head, config["out_channels"])
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, ch), nn.SiLU(), pool)

    def forward(self, x: Any, timesteps: Any) -> Any:
        half = self.config["model_channels"] // 2
        falling = torch.exp(-math.log(10000.0) * torch.arange(half) / half).to(x.device)
        angles = timesteps.float()[:, None] * falling
        told = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=1))
        for block in self.input_blocks:
            x = block(x, told)
        return self.out(self.middle_block(x, told))
