"""guided-diffusion's EncoderUNetModel in plain torch, written anew from its paper's code: Dhariwal
& Nichol 2021, github.com/openai/guided-diffusion. Module names are those of its checkpoints.
"""

import json
import math

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

CONFIG = {
    "image_size": 16, "in_channels": 3, "model_channels": 32, "out_channels": 10,
    "num_res_blocks": 1, "attention_resolutions": [2], "channel_mult": [1, 2],
    "num_head_channels": 16, "use_scale_shift_norm": True, "resblock_updown": True,
    "pool": "attention",
}  # fmt: skip


class Timed(nn.Module):
    pass


class Sequence(nn.Sequential):
    def forward(self, x, emb):
        for layer in self:
            x = layer(x, emb) if isinstance(layer, Timed) else layer(x)
        return x


class ResBlock(Timed):
    def __init__(self, channels, emb, out, scale_shift, down=False):
        super().__init__()
        self.scale_shift, self.down = scale_shift, down
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * out if scale_shift else out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, out), nn.SiLU(), nn.Dropout(0.0), nn.Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if out == channels else nn.Conv2d(channels, out, 1)

    def forward(self, x, emb):
        if self.down:
            h = self.in_layers[2](F.avg_pool2d(self.in_layers[:2](x), 2))
            x = F.avg_pool2d(x, 2)
        else:
            h = self.in_layers(x)
        told = self.emb_layers(emb)[..., None, None]
        if self.scale_shift:
            scale, shift = told.chunk(2, dim=1)
            h = self.out_layers[1:](self.out_layers[0](h) * (1 + scale) + shift)
        else:
            h = self.out_layers(h + told)
        return self.skip_connection(x) + h


def attend(qkv, heads, new_order):
    n, width, length = qkv.shape
    d = width // (3 * heads)
    if new_order:
        q, k, v = (t.reshape(n * heads, d, length) for t in qkv.chunk(3, dim=1))
    else:
        q, k, v = qkv.reshape(n * heads, 3 * d, length).split(d, dim=1)
    weight = torch.einsum("bct,bcs->bts", q * d**-0.25, k * d**-0.25).softmax(dim=-1)
    return torch.einsum("bts,bcs->bct", weight, v).reshape(n, -1, length)


class Attention(nn.Module):
    def __init__(self, channels, heads, new_order):
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = nn.GroupNorm(32, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = nn.Conv1d(channels, channels, 1)

    def forward(self, x):
        flat = x.flatten(2)
        h = attend(self.qkv(self.norm(flat)), self.heads, self.new_order)
        return (flat + self.proj_out(h)).reshape(x.shape)


class Downsample(nn.Module):
    def __init__(self, channels, conv):
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, 2, 1) if conv else nn.AvgPool2d(2)

    def forward(self, x):
        return self.op(x)


class AttentionPool(nn.Module):
    def __init__(self, side, channels, per_head, out):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.randn(channels, side * side + 1))
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, out, 1)
        self.heads = channels // per_head

    def forward(self, x):
        x = x.flatten(2)
        x = torch.cat([x.mean(dim=-1, keepdim=True), x], dim=-1) + self.positional_embedding
        return self.c_proj(attend(self.qkv_proj(x), self.heads, True))[:, :, 0]


class EncoderUNetModel(nn.Module):
    def __init__(
        self,
        image_size,
        in_channels,
        model_channels,
        out_channels,
        num_res_blocks,
        attention_resolutions,
        channel_mult=(1, 2, 4, 8),
        conv_resample=True,
        num_heads=1,
        num_head_channels=-1,
        use_scale_shift_norm=False,
        resblock_updown=False,
        use_new_attention_order=False,
        pool="adaptive",
    ):
        super().__init__()
        self.model_channels, self.pool = model_channels, pool
        emb = 4 * model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(model_channels, emb), nn.SiLU(), nn.Linear(emb, emb)
        )

        def attention(channels):
            heads = num_heads if num_head_channels == -1 else channels // num_head_channels
            return Attention(channels, heads, use_new_attention_order)

        ch = int(channel_mult[0] * model_channels)
        blocks = [Sequence(nn.Conv2d(in_channels, ch, 3, padding=1))]
        features, ds = ch, 1
        for level, mult in enumerate(channel_mult):
            for _ in range(num_res_blocks):
                out = int(mult * model_channels)
                layers = [ResBlock(ch, emb, out, use_scale_shift_norm)]
                ch = out
                if ds in attention_resolutions:
                    layers.append(attention(ch))
                blocks.append(Sequence(*layers))
                features += ch
            if level != len(channel_mult) - 1:
                block = (
                    ResBlock(ch, emb, ch, use_scale_shift_norm, True)
                    if resblock_updown
                    else Downsample(ch, conv_resample)
                )
                blocks.append(Sequence(block))
                ds *= 2
                features += ch
        self.input_blocks = nn.ModuleList(blocks)
        self.middle_block = Sequence(
            ResBlock(ch, emb, ch, use_scale_shift_norm),
            attention(ch),
            ResBlock(ch, emb, ch, use_scale_shift_norm),
        )
        features += ch
        self.out = {
            "adaptive": lambda: nn.Sequential(
                nn.GroupNorm(32, ch),
                nn.SiLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Conv2d(ch, out_channels, 1),
                nn.Flatten(),
            ),
            "attention": lambda: nn.Sequential(
                nn.GroupNorm(32, ch),
                nn.SiLU(),
                AttentionPool(image_size // ds, ch, num_head_channels, out_channels),
            ),
            "spatial": lambda: nn.Sequential(
                nn.Linear(features, 2048), nn.ReLU(), nn.Linear(2048, out_channels)
            ),
            "spatial_v2": lambda: nn.Sequential(
                nn.Linear(features, 2048),
                nn.GroupNorm(32, 2048),
                nn.SiLU(),
                nn.Linear(2048, out_channels),
            ),
        }[pool]()

    def forward(self, x, timesteps):
        half = self.model_channels // 2
        frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
        angles = timesteps[:, None].float() * frequencies
        emb = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=-1).to(x.dtype))
        results, h = [], x
        for block in self.input_blocks:
            h = block(h, emb)
            results.append(h.mean(dim=(2, 3)))
        h = self.middle_block(h, emb)
        results.append(h.mean(dim=(2, 3)))
        return self.out(torch.cat(results, dim=1) if self.pool.startswith("spatial") else h)


def write(folder, seed=0, **changes):
    """The plain module with random parameters, none 0, saved to `folder` as ours reads it."""
    config = {**CONFIG, **changes}
    model = EncoderUNetModel(**config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():  # requires_grad is off
        spread = p.shape[1:].numel() ** -0.5 if p.dim() > 1 else 0.3
        p.copy_(torch.randn(p.shape, generator=generator) * spread * 1.2)
        if p.dim() == 1:
            p.add_(0.5)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(model.state_dict(), folder / "model.safetensors")
    return model
