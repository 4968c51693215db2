"""The transformer that predicts masked picture tokens, for training.

`pyengine.models.MaskedTransformer` computes the same from the same weights with the engine's ops.
Chang et al. 2022, arXiv:2202.04200 (MaskGIT); Shazeer 2020, arXiv:2002.05202 (SwiGLU).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .settings import MaskedSettings


class Attention(nn.Module):
    """Every position attends to all positions of the picture and to the text before them."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        """x: [N, L, width]; text: [N, T, width]."""
        both = torch.cat([text, x], dim=1)
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y in (self.to_q(x), self.to_k(both), self.to_v(both))
        )
        # Less time than scaled_dot_product_attention's gradient at this length on a CPU.
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
        y = scores.softmax(dim=-1).to(v.dtype) @ v
        out: Tensor = self.to_out(y.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.up = nn.Linear(width, inner, bias=False)
        self.gate = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(self.up(x) * functional.silu(self.gate(x)))
        return out


class Layer(nn.Module):
    def __init__(self, s: MaskedSettings):
        super().__init__()
        self.norm1 = nn.RMSNorm(s.width, s.eps)
        self.attention = Attention(s.width, s.heads)
        self.norm2 = nn.RMSNorm(s.width, s.eps)
        self.feed_forward = FeedForward(s.width, s.inner)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), text)
        out: Tensor = x + self.feed_forward(self.norm2(x))
        return out


class MaskedTransformer(nn.Module):
    """Logits of every token of a picture, from those that are known and a text."""

    def __init__(self, s: MaskedSettings):
        super().__init__()
        self.embed = nn.Embedding(s.codes + 1, s.embedding)
        self.project_in = nn.Linear(s.embedding, s.width, bias=False)
        self.positions = nn.Embedding(s.side**2, s.width)
        self.text = nn.Linear(s.text_width, s.width, bias=False)
        self.text_norm = nn.RMSNorm(s.width, s.eps)
        self.pooled = nn.Linear(s.text_width, s.width, bias=False)
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.layers))
        self.norm = nn.RMSNorm(s.width, s.eps)
        self.project_out = nn.Linear(s.width, s.embedding, bias=False)
        self.head = nn.Linear(s.embedding, s.codes)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                last = name.endswith(("to_out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * s.layers) ** 0.5 if last else 0.05)

    def forward(self, ids: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
        """[N, L, codes] for ids [N, L], `codes` where masked; text: [N, T, text_width] hidden
        states; pooled: [N, text_width], that of the end token.
        """
        return self.predict(self.states(ids, text, pooled))

    def states(self, ids: Tensor, text: Tensor, pooled: Tensor) -> Tensor:
        """[N, L, width] after the last layer, for the arguments of `forward`."""
        words = self.text_norm(self.text(text))
        x: Tensor = self.project_in(self.embed(ids))
        x = x + self.positions.weight + self.pooled(pooled)[:, None]
        for layer in self.layers:
            x = layer(x, words)
        return x

    def predict(self, states: Tensor) -> Tensor:
        """Logits [..., codes] of states [..., width]."""
        out: Tensor = self.head(self.project_out(self.norm(states)))
        return out
