"""The network of the small pixel models, to be trained: pyengine.models' PatchTransformer, with the
same names of parameters, in plain torch.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import nn
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPEncoder

from ..models.transformer.patches import NORM_EPS, PatchTransformerConfig


class _Time(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.linear_1, self.linear_2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, timesteps: Any) -> Any:
        """[N] -> [N, width]: cosines and sines (Vaswani et al. 2017), then two layers."""
        half = self.width // 2
        falling = torch.exp(-math.log(10000.0) * torch.arange(half) / half).to(timesteps.device)
        angles = timesteps.float()[:, None] * falling
        waves = torch.cat([angles.cos(), angles.sin()], dim=1)
        return self.linear_2(nn.functional.silu(self.linear_1(waves)))


class PatchNetwork(nn.Module):
    """See pyengine.models.transformer.patches."""

    def __init__(self, config: PatchTransformerConfig):
        super().__init__()
        c = self.config = config
        layers = CLIPVisionConfig(
            hidden_size=c.width,
            intermediate_size=c.inner,
            num_hidden_layers=c.layers,
            num_attention_heads=c.heads,
            hidden_act="gelu",
            layer_norm_eps=NORM_EPS,
        )
        # torch's fused attention has a backward pass in bfloat16 that is many times slower.
        layers._attn_implementation = "eager"
        pixels = c.patch_size**2
        self.patch_in = nn.Linear(pixels * c.in_channels, c.width)
        self.positions = nn.Embedding(c.side**2, c.width)
        self.time = _Time(c.width)
        self.statistics = nn.Embedding(2, c.vector_size)
        self.vector = nn.Linear(c.vector_size, c.width)
        self.layout = nn.Linear(c.vector_size, c.side**2 * c.layout)
        self.layout_in = nn.Linear(c.layout, c.width)
        self.encoder = CLIPEncoder(cast(Any, layers))  # its sizes are all that is read
        self.norm = nn.LayerNorm(c.width, NORM_EPS)
        self.patch_out = nn.Linear(c.width, pixels * c.out_channels)
        nn.init.normal_(self.positions.weight, std=0.02)
        self.statistics.requires_grad_(False)
        self.learn_statistics(torch.zeros(2, c.vector_size))

    def learn_statistics(self, vectors: Any) -> None:
        """Brings conditions such as these [N, vector_size] to mean 0 and deviation 1, number by
        number; numbers that are all alike keep theirs.
        """
        mean, deviation = vectors.float().mean(dim=0), vectors.float().std(dim=0)
        flat = deviation < 1e-6
        rows = [torch.where(flat, 0, mean), torch.where(flat, 1, deviation)]
        self.statistics.weight.data.copy_(torch.stack(rows))

    def forward(self, sample: Any, timesteps: Any, vectors: Any) -> Any:
        """The clean sample [N, out_channels, H, W] of a noisy one [N, in_channels, H, W], timesteps
        [N] and conditions [N, vector_size].
        """
        c = self.config
        n, p = len(sample), c.patch_size
        cut = sample.reshape(n, c.in_channels, c.side, p, c.side, p).permute(0, 2, 4, 1, 3, 5)
        mean, deviation = self.statistics.weight
        vectors = (vectors.float() - mean) / deviation
        own = self.layout_in(self.layout(vectors).view(n, c.side**2, c.layout))
        tokens = self.patch_in(cut.reshape(n, c.side**2, -1)) + own + self.positions.weight
        told = self.time(timesteps) + self.vector(vectors)
        states = self.encoder(inputs_embeds=tokens + told[:, None]).last_hidden_state
        out = self.patch_out(self.norm(states)).view(n, c.side, c.side, c.out_channels, p, p)
        shape = n, c.out_channels, c.sample_size, c.sample_size
        return out.permute(0, 3, 1, 4, 2, 5).reshape(shape)
