"""IP-Adapter: what makes tokens of a picture, and keys and values of these for each attention.

Ye et al. 2023, arXiv:2308.06721. The resampler of its "plus" form: Alayrac et al. 2022 (Flamingo),
arXiv:2204.14198.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ... import ops
from ...errors import RequestError
from ...guard import inference
from ...layers import LayerNorm, Linear, fuse
from ..base import Model, raise_problems

_DIM = {"min": 1, "max": 65536}
Kind = Literal["base", "full", "plus"]
#: Width of a head of the resampler, which no tensor's shape tells.
HEAD = 64


@dataclass(frozen=True)
class IPAdapterConfig:
    """What an IP-Adapter's tensors say of it; a file holds no config.

    kind: "base" makes `tokens` of the picture's embedding, "full" one of each of its encoder's last
    but one hidden states, "plus" `tokens` of all of these, by a resampler. image_width: of what it
    is given. width: of the tokens, the U-Net's cross_attention_dim. inner, depth, heads: of the
    resampler. attentions: widths of the U-Net's attentions to the text, in the file's order.
    """

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ()

    kind: Kind
    image_width: int = field(metadata=_DIM)
    width: int = field(metadata=_DIM)
    attentions: tuple[int, ...]
    tokens: int = field(default=4, metadata={"min": 1, "max": 4096})
    inner: int = field(default=0, metadata={"min": 0, "max": 65536})
    depth: int = field(default=0, metadata={"min": 0, "max": 64})
    heads: int = field(default=0, metadata={"min": 0, "max": 1024})

    def __post_init__(self) -> None:
        problems = []
        if not self.attentions:
            problems.append("attentions is empty")
        if self.kind == "plus" and (self.inner < 1 or self.heads < 1):
            problems.append("inner, heads: expected at least 1 of a resampler")
        raise_problems(problems)


class _Tokens(nn.Module):
    """A picture's embedding as tokens, normed."""

    def __init__(self, c: IPAdapterConfig):
        super().__init__()
        self.tokens = c.tokens
        self.proj = Linear(c.image_width, c.tokens * c.width)
        self.norm = LayerNorm(c.width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, image_width] -> [N, tokens, width]."""
        y: Tensor = self.norm(self.proj(x).view(len(x), self.tokens, -1))
        return y


class _Full(nn.Module):
    """Two linear layers over each hidden state, saved as an nn.Sequential with its norm."""

    def __init__(self, c: IPAdapterConfig):
        super().__init__()
        self.proj = nn.ModuleDict(
            {
                "0": Linear(c.image_width, c.image_width),
                "2": Linear(c.image_width, c.width),
                "3": LayerNorm(c.width),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, L, image_width] -> [N, L, width]."""
        y: Tensor = self.proj["3"](self.proj["2"](self.proj["0"](x, activation="gelu")))
        return y


class _Perceiver(nn.Module):
    """Attention of the latents to what was seen and to themselves, after a norm each."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = LayerNorm(width), LayerNorm(width)
        self.to_q = Linear(width, heads * HEAD, bias=False)
        self.to_kv = Linear(width, 2 * heads * HEAD, bias=False)
        self.to_out = Linear(heads * HEAD, width, bias=False)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        normed = self.norm2(latents)
        k, v = self.to_kv(torch.cat([self.norm1(x), normed], dim=1)).chunk(2, dim=-1)
        y = ops.attention(self.to_q(normed), k, v, self.heads)
        out: Tensor = self.to_out(y, residual=latents)
        return out


class _FeedForward(nn.ModuleDict):
    """Norm, linear, GELU, linear; saved as an nn.Sequential."""

    def __init__(self, width: int, inner: int):
        super().__init__(
            {
                "0": LayerNorm(width),
                "1": Linear(width, inner, bias=False),
                "3": Linear(inner, width, bias=False),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self["3"](self["1"](self["0"](x), activation="gelu"), residual=x)
        return y


class _Resampler(nn.Module):
    """Latents that were learnt, which read a picture's hidden states."""

    def __init__(self, c: IPAdapterConfig):
        super().__init__()
        empty = torch.empty(1, c.tokens, c.inner, device="meta")
        self.latents = nn.Parameter(empty, requires_grad=False)
        self.proj_in = Linear(c.image_width, c.inner)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {"0": _Perceiver(c.inner, c.heads), "1": _FeedForward(c.inner, 4 * c.inner)}
            )
            for _ in range(c.depth)
        )
        self.proj_out = Linear(c.inner, c.width)
        self.norm_out = LayerNorm(c.width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, L, image_width] -> [N, tokens, width]."""
        x = self.proj_in(x)
        latents = self.latents.expand(len(x), -1, -1).contiguous()
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            latents = layer["1"](layer["0"](x, latents))
        y: Tensor = self.norm_out(self.proj_out(latents))
        return y


_KINDS: dict[Kind, type[nn.Module]] = {"base": _Tokens, "full": _Full, "plus": _Resampler}


class _Projections(nn.Module):
    """Of one attention: keys and values of a picture's tokens."""

    def __init__(self, width: int, out: int):
        super().__init__()
        self.to_k_ip = Linear(width, out, bias=False)
        self.to_v_ip = Linear(width, out, bias=False)
        self.to_kv: Any = None

    def pack(self) -> None:
        if self.to_kv is None:
            self.to_kv = fuse(self, "to_k_ip", "to_v_ip")

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        if self.to_kv is None:
            return self.to_k_ip(tokens), self.to_v_ip(tokens)
        keys, values = self.to_kv(tokens)
        return keys.contiguous(), values.contiguous()


class IPAdapter(Model):
    """An IP-Adapter's own layers, under the names of its files."""

    config_class = IPAdapterConfig  # type: ignore[assignment]  # a file holds no config

    def __init__(self, config: IPAdapterConfig):
        super().__init__(config)
        self.image_proj = _KINDS[config.kind](config)
        # Files number the attentions among all, those to the picture itself included: 1, 3, 5...
        self.ip_adapter = nn.ModuleDict(
            {
                str(2 * i + 1): _Projections(config.width, out)
                for i, out in enumerate(config.attentions)
            }
        )

    @property
    def reads_states(self) -> bool:
        """Whether it is given hidden states, not the embedding, of a picture's encoder."""
        return bool(self.config.kind != "base")

    @inference
    def tokens(self, embeds: Tensor) -> Tensor:
        """[N, tokens, width] of what an encoder makes of N pictures: embeddings [N, image_width],
        or hidden states [N, L, image_width]. Raises RequestError for other shapes.
        """
        c: IPAdapterConfig = self.config
        dims = 3 if self.reads_states else 2
        if embeds.dim() != dims or embeds.shape[-1] != c.image_width or not embeds.numel():
            shape = f"[N, L, {c.image_width}]" if dims == 3 else f"[N, {c.image_width}]"
            raise RequestError(
                f"ip_adapter_image_embeds: expected {shape}, got {list(embeds.shape)}"
            )
        given = embeds.to(device=self.device, dtype=self.dtype)
        # One by one: a picture's tokens are the same bits beside any others.
        with self.arena.use():
            return torch.cat([self.image_proj(row[None].contiguous()) for row in given])

    @inference
    def keys_values(self, tokens: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Of each attention, in the file's order, keys and values [N, L, its width] of tokens
        [N, L, width].
        """
        with self.arena.use():
            return [
                (keys.clone(), values.clone())
                for keys, values in (layer(tokens) for layer in self.ip_adapter.values())
            ]
