"""The transformer layer of CLIP's two towers.  Radford et al. 2021, arXiv:2103.00020."""

from torch import Tensor, nn

from ... import ops
from ...layers import Fused, LayerNorm, Linear, fuse
from ..base import ACTIVATIONS


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, causal: bool):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q_proj = Linear(width, width)
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.out_proj = Linear(width, width)
        self.qkv_proj: Fused | None = None

    def pack(self) -> None:
        if self.qkv_proj is None:
            self.qkv_proj = fuse(self, "q_proj", "k_proj", "v_proj")

    def forward(self, x: Tensor, mask: Tensor | None, residual: Tensor) -> Tensor:
        if self.qkv_proj is not None:
            q, k, v = self.qkv_proj(x)
        else:
            q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        y: Tensor = ops.attention(q, k, v, self.heads, mask=mask, causal=self.causal)
        y = self.out_proj(y, residual=residual)
        return y


class _MLP(nn.Module):
    def __init__(self, width: int, inner: int, activation: str):
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.fc1 = Linear(width, inner)
        self.fc2 = Linear(inner, width)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        y: Tensor = self.fc2(self.fc1(x, activation=self.activation), residual=residual)
        return y


class CLIPLayer(nn.Module):
    """Self-attention and a feed-forward, each after a norm, each added to x.

    activation: transformers' name. causal: a token sees those before it alone, as in text.
    """

    def __init__(
        self, width: int, heads: int, inner: int, activation: str, eps: float, causal: bool
    ):
        super().__init__()
        self.layer_norm1 = LayerNorm(width, eps)
        self.self_attn = _Attention(width, heads, causal)
        self.layer_norm2 = LayerNorm(width, eps)
        self.mlp = _MLP(width, inner, activation)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x: [N, L, width]; mask: as ops.attention takes it."""
        x = self.self_attn(self.layer_norm1(x), mask, residual=x)
        x = self.mlp(self.layer_norm2(x), residual=x)
        return x


class CLIPEncoder(nn.Module):
    """Layers one after another, saved as `layers.*`."""

    def __init__(
        self,
        count: int,
        width: int,
        heads: int,
        inner: int,
        activation: str,
        eps: float,
        causal: bool,
    ):
        super().__init__()
        self.layers = nn.ModuleList(
            CLIPLayer(width, heads, inner, activation, eps, causal) for _ in range(count)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """x and every layer's result."""
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], mask))
        return states
