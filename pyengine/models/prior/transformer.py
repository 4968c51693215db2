"""The prior of unCLIP and Kandinsky 2.x: from a text's embedding to a picture's, by diffusion.

Ramesh et al. 2022, arXiv:2204.06125, section 2.2.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ... import ops
from ...errors import RequestError
from ...guard import inference
from ...layers import LayerNorm, Linear
from ...weights import read_config
from ..base import Model, Output
from ..blocks.embeddings import sinusoids
from ..blocks.transformer import SelfAttention

#: What diffusers adds to the scores of tokens that are not to be seen.
HIDDEN = -10000.0

_WIDTH = {"min": 1, "max": 65536}


@dataclass(frozen=True)
class PriorConfig:
    """prior/config.json; names and defaults are diffusers' PriorTransformer's."""

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("PriorTransformer",)
    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset({"dropout"})  # training

    num_attention_heads: int = field(default=32, metadata={"min": 1, "max": 256})
    attention_head_dim: int = field(default=64, metadata={"min": 1, "max": 1024})
    num_layers: int = field(default=20, metadata={"min": 1, "max": 128})
    embedding_dim: int = field(default=768, metadata=_WIDTH)
    num_embeddings: int = field(default=77, metadata={"min": 1, "max": 8192})
    additional_embeddings: int = field(default=4, metadata={"min": 0, "max": 64})
    time_embed_act_fn: Literal["silu", "gelu"] = "silu"
    norm_in_type: Literal["layer"] | None = None
    embedding_proj_norm_type: Literal["layer"] | None = None
    encoder_hid_proj_type: Literal["linear"] | None = "linear"
    added_emb_type: Literal["prd"] | None = "prd"
    time_embed_dim: int | None = field(default=None, metadata=_WIDTH)
    embedding_proj_dim: int | None = field(default=None, metadata=_WIDTH)
    clip_embed_dim: int | None = field(default=None, metadata=_WIDTH)

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "PriorConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    @property
    def width(self) -> int:
        """Of a token within the transformer."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def projected_dim(self) -> int:
        """Of `proj_embedding`."""
        return self.embedding_dim if self.embedding_proj_dim is None else self.embedding_proj_dim

    @property
    def clip_dim(self) -> int:
        """Of the result."""
        return self.embedding_dim if self.clip_embed_dim is None else self.clip_embed_dim


@dataclass
class PriorOutput(Output):
    """predicted_image_embedding: [N, clip_dim], the clean embedding; [N, M, clip_dim] without
    added_emb_type, for the M tokens of hidden_states.
    """

    predicted_image_embedding: Tensor


def _parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)


class _TimeEmbedding(nn.Module):
    def __init__(self, c: PriorConfig):
        super().__init__()
        inner = c.width if c.time_embed_dim is None else c.time_embed_dim
        self.activation = c.time_embed_act_fn
        self.linear_1 = Linear(c.width, inner)
        self.linear_2 = Linear(inner, c.width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear_2(self.linear_1(x, activation=self.activation))
        return y


class _Attention(SelfAttention):
    """Self-attention under a mask."""

    def __init__(self, width: int, heads: int):
        super().__init__(width, heads, bias=True)

    def masked(self, x: Tensor, mask: Tensor | None, residual: Tensor) -> Tensor:
        q, k, v = self._project(x)
        y: Tensor = ops.attention(q, k, v, self.heads, mask=mask)
        y = self.to_out[0](y, residual=residual)
        return y


class _GELU(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = Linear(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.proj(x, activation="gelu")
        return y


class _FeedForward(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        # Number 1 is dropout, which has no tensors and does nothing here.
        self.net = nn.ModuleList([_GELU(width, 4 * width), nn.Identity(), Linear(4 * width, width)])

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        y: Tensor = self.net[2](self.net[0](x), residual=residual)
        return y


class _Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn1 = _Attention(width, heads)
        self.norm3 = LayerNorm(width)
        self.ff = _FeedForward(width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.attn1.masked(self.norm1(x), mask, residual=x)
        y: Tensor = self.ff(self.norm3(x), residual=x)
        return y


class PriorTransformer(Model):
    """Predicts a picture's clean CLIP embedding from a noisy one, a text's, and its tokens.

    The tokens of a sequence: the text's, its embedding, the time, the noisy embedding, and one
    that was learned and whose result is the prediction. What it predicts has been normalised:
    `post_process_latents` takes it back to CLIP's space.
    """

    config_class = PriorConfig

    def __init__(self, config: PriorConfig):
        super().__init__(config)
        c, width = config, config.width
        self.time_embedding = _TimeEmbedding(c)
        self.proj_in = Linear(c.embedding_dim, width)
        normed = c.embedding_proj_norm_type == "layer"
        self.embedding_proj_norm = LayerNorm(c.projected_dim) if normed else None
        self.embedding_proj = Linear(c.projected_dim, width)
        linear = c.encoder_hid_proj_type == "linear"
        self.encoder_hidden_states_proj = Linear(c.embedding_dim, width) if linear else None
        positions = c.num_embeddings + c.additional_embeddings
        self.positional_embedding = _parameter(1, positions, width)
        self.prd_embedding = _parameter(1, 1, width) if c.added_emb_type == "prd" else None
        self.transformer_blocks = nn.ModuleList(
            _Block(width, c.num_attention_heads) for _ in range(c.num_layers)
        )
        self.norm_in = LayerNorm(width) if c.norm_in_type == "layer" else None
        self.norm_out = LayerNorm(width)
        self.proj_to_clip_embeddings = Linear(width, c.clip_dim)
        self.clip_mean = _parameter(1, c.clip_dim)
        self.clip_std = _parameter(1, c.clip_dim)

    @inference
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor | float,
        proj_embedding: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        return_dict: bool = True,
    ) -> PriorOutput | tuple[Tensor, ...]:
        """One evaluation of the network, in its dtype.

        Args:
            hidden_states: [N, embedding_dim], the noisy embedding (or [N, M, embedding_dim], tokens
                of a model without added_emb_type).
            timestep: a number or [N].
            proj_embedding: [N, projected_dim], the text's.
            encoder_hidden_states: [N, num_embeddings, embedding_dim], its tokens.
            attention_mask: [N, num_embeddings], 0 (or False) hides a token, and every token sees
                those before it alone; None: all see all.
            return_dict: False gives a tuple in place of an object with names.

        Raises:
            RequestError: for other shapes.
        """
        c = self.config
        texts = self._texts(encoder_hidden_states, len(hidden_states))
        noisy = self._checked("hidden_states", hidden_states, c.embedding_dim)
        projected = self._checked("proj_embedding", proj_embedding, c.projected_dim)
        n = len(noisy)
        if self.embedding_proj_norm is not None:
            projected = self.embedding_proj_norm(projected)
        tokens = [
            *texts,
            self.embedding_proj(projected),
            self._time(timestep, n),
            self.proj_in(noisy),
        ]
        before = sum(t.shape[1] for t in tokens[:-1])
        if self.prd_embedding is not None:
            tokens.append(self.prd_embedding.expand(n, -1, -1))
        x = torch.cat(tokens, dim=1)
        x = x + self._positions(x.shape[1], before)
        mask = None if attention_mask is None else self._mask(attention_mask, n, x.shape[1])
        if self.norm_in is not None:
            x = self.norm_in(x)
        for block in self.transformer_blocks:
            x = block(x, mask)
        x = self.norm_out(x[:, before:] if self.prd_embedding is None else x[:, -1].contiguous())
        out = PriorOutput(self.proj_to_clip_embeddings(x.contiguous()))
        return out if return_dict else out.to_tuple()

    @inference
    def post_process_latents(self, prior_latents: Tensor) -> Tensor:
        """Embeddings from the space of the diffusion to CLIP's.

        Args:
            prior_latents: [N, clip_dim].

        Returns:
            [N, clip_dim].
        """
        latents = prior_latents.to(device=self.device, dtype=self.dtype)
        return latents * self.clip_std + self.clip_mean

    # --- tokens -----------------------------------------------------------------------------------

    def _checked(self, name: str, x: Tensor, width: int) -> Tensor:
        """[N, M, width] in the model's dtype."""
        tokens = name == "hidden_states" and self.prd_embedding is None
        if x.shape[-1:] != (width,) or not (x.dim() == 2 or (tokens and x.dim() == 3)):
            shape = "[N, M, {}] or [N, {}]" if tokens else "[N, {}]"
            raise RequestError(
                f"{name}: expected {shape.replace('{}', str(width))}, got {list(x.shape)}"
            )
        x = x.to(device=self.device, dtype=self.dtype)
        return x[:, None] if x.dim() == 2 else x

    def _texts(self, texts: Tensor | None, n: int) -> list[Tensor]:
        c = self.config
        if texts is None:
            if self.encoder_hidden_states_proj is not None:
                raise RequestError("encoder_hidden_states: this model needs them, got None")
            return []
        width = c.width if self.encoder_hidden_states_proj is None else c.embedding_dim
        if texts.dim() != 3 or (texts.shape[0], texts.shape[2]) != (n, width):
            raise RequestError(
                f"encoder_hidden_states: expected [{n}, {c.num_embeddings}, {width}],"
                f" got {list(texts.shape)}"
            )
        texts = texts.to(device=self.device, dtype=self.dtype).contiguous()
        project = self.encoder_hidden_states_proj
        return [texts if project is None else project(texts)]

    def _time(self, timestep: Tensor | float, n: int) -> Tensor:
        times = torch.as_tensor(timestep, device=self.device).reshape(-1)
        if len(times) not in (1, n):
            raise RequestError(f"timestep: expected a number or [{n}], got {list(times.shape)}")
        waves = sinusoids(times, self.config.width, True, 0).to(self.dtype)
        embedded: Tensor = self.time_embedding(waves.expand(n, -1).contiguous())
        return embedded[:, None]

    def _positions(self, length: int, before: int) -> Tensor:
        """[1, length, width]; a table that is shorter is that of the tokens of hidden_states."""
        table = self.positional_embedding
        missing = length - table.shape[1]
        after = 0 if self.prd_embedding is None else 1
        if missing == 0:
            return table
        if missing != before + after:
            raise RequestError(
                f"encoder_hidden_states: expected {table.shape[1]} tokens in all"
                f" (num_embeddings and additional_embeddings), got {length}"
            )
        empty = table.new_zeros(1, length, table.shape[2])
        empty[:, before : before + table.shape[1]] = table
        return empty

    def _mask(self, attention_mask: Tensor, n: int, length: int) -> Tensor:
        """[N, 1, length, length] float32, what ops.attention adds."""
        c = self.config
        if attention_mask.shape != (n, length - c.additional_embeddings):
            raise RequestError(
                f"attention_mask: expected shape {[n, length - c.additional_embeddings]},"
                f" got {list(attention_mask.shape)}"
            )
        seen = attention_mask.to(self.device).float()
        hidden = (1 - nn.functional.pad(seen, (0, c.additional_embeddings), value=1.0)) * HIDDEN
        causal = torch.full((length, length), HIDDEN, device=self.device).triu(1)
        return (hidden[:, None, :] + causal)[:, None]
