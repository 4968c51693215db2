"""The Llama decoder, as the language model of token-based picture models.

Touvron et al. 2023, arXiv:2302.13971; Su et al. 2021, arXiv:2104.09864 (rotary positions).
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ... import ops
from ...layers import Embedding, Fused, Linear, RMSNorm, fuse
from ...weights import read_config
from ..base import TRANSFORMERS_KEYS, raise_problems
from .kv_cache import KVCache


def _bounds(low: float, high: float) -> dict[str, Any]:
    return {"min": low, "max": high}


@dataclass(frozen=True)
class RopeParameters:
    """How transformers 5 saves the positions; 4 has rope_theta beside the other keys."""

    rope_theta: float = field(default=10000.0, metadata=_bounds(1, 1e9))
    rope_type: Literal["default"] = "default"


@dataclass(frozen=True)
class LlamaConfig:
    """A Llama's config.json; names and defaults are transformers'."""

    IGNORED_KEYS: ClassVar[frozenset[str]] = TRANSFORMERS_KEYS | frozenset(
        {"attention_dropout", "eos_token_id", "initializer_range", "pretraining_tp"}
    )

    vocab_size: int = field(default=32000, metadata=_bounds(1, 1 << 20))
    hidden_size: int = field(default=4096, metadata=_bounds(1, 16384))
    intermediate_size: int = field(default=11008, metadata=_bounds(1, 65536))
    num_hidden_layers: int = field(default=32, metadata=_bounds(1, 256))
    num_attention_heads: int = field(default=32, metadata=_bounds(1, 256))
    num_key_value_heads: int | None = field(default=None, metadata=_bounds(1, 256))
    head_dim: int | None = field(default=None, metadata=_bounds(2, 1024))
    hidden_act: Literal["silu"] = "silu"
    max_position_embeddings: int = field(default=2048, metadata=_bounds(1, 1 << 20))
    rms_norm_eps: float = field(default=1e-6, metadata=_bounds(0, 1))
    rope_parameters: RopeParameters | None = None
    rope_theta: float = field(default=10000.0, metadata=_bounds(1, 1e9))
    rope_scaling: None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    model_type: Literal["llama"] = "llama"

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "LlamaConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        problems = []
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            problems.append(
                f"hidden_size {self.hidden_size} is no multiple of"
                f" num_attention_heads {self.num_attention_heads}"
            )
        if self.num_attention_heads % self.kv_heads:
            problems.append(
                f"num_attention_heads {self.num_attention_heads} is no multiple of"
                f" num_key_value_heads {self.kv_heads}"
            )
        if self.head_width % 2:
            problems.append(f"heads of {self.head_width} cannot be turned: expected an even width")
        raise_problems(problems)

    @property
    def kv_heads(self) -> int:
        given = self.num_key_value_heads
        return self.num_attention_heads if given is None else given

    @property
    def head_width(self) -> int:
        given = self.head_dim
        return self.hidden_size // self.num_attention_heads if given is None else given

    @property
    def theta(self) -> float:
        return self.rope_theta if self.rope_parameters is None else self.rope_parameters.rope_theta


# --- network --------------------------------------------------------------------------------------


class _Attention(nn.Module):
    def __init__(self, c: LlamaConfig, layer: int):
        super().__init__()
        self.layer, self.heads, self.kv_heads = layer, c.num_attention_heads, c.kv_heads
        self.scale = c.head_width**-0.5
        width, kv_width, bias = (
            self.heads * c.head_width,
            c.kv_heads * c.head_width,
            c.attention_bias,
        )
        self.q_proj = Linear(c.hidden_size, width, bias=bias)
        self.k_proj = Linear(c.hidden_size, kv_width, bias=bias)
        self.v_proj = Linear(c.hidden_size, kv_width, bias=bias)
        self.o_proj = Linear(width, c.hidden_size, bias=bias)
        self.qkv_proj: Fused | None = None

    def pack(self) -> None:
        if self.qkv_proj is None:
            self.qkv_proj = fuse(self, "q_proj", "k_proj", "v_proj")

    def forward(self, x: Tensor, cache: KVCache, residual: Tensor) -> Tensor:
        if self.qkv_proj is not None:
            q, k, v = self.qkv_proj(x)
        else:
            q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        y = cache.attend(self.layer, q, k, v, self.heads, self.scale)
        return self.o_proj(y, residual=residual)


class _MLP(nn.Module):
    def __init__(self, c: LlamaConfig):
        super().__init__()
        self.gate_proj = Linear(c.hidden_size, c.intermediate_size, bias=c.mlp_bias)
        self.up_proj = Linear(c.hidden_size, c.intermediate_size, bias=c.mlp_bias)
        self.down_proj = Linear(c.intermediate_size, c.hidden_size, bias=c.mlp_bias)
        self.up_gate_proj: Fused | None = None

    def pack(self) -> None:
        if self.up_gate_proj is None:
            self.up_gate_proj = fuse(self, "up_proj", "gate_proj")

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        if self.up_gate_proj is not None:
            both = self.up_gate_proj.joined(x)
        else:
            both = torch.cat([self.up_proj(x), self.gate_proj(x)], dim=-1)
        return self.down_proj(ops.swiglu(both), residual=residual)


class _Layer(nn.Module):
    def __init__(self, c: LlamaConfig, layer: int):
        super().__init__()
        self.input_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.self_attn = _Attention(c, layer)
        self.post_attention_layernorm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.mlp = _MLP(c)

    def forward(self, x: Tensor, cache: KVCache) -> Tensor:
        x = self.self_attn(self.input_layernorm(x), cache, residual=x)
        y: Tensor = self.mlp(self.post_attention_layernorm(x), residual=x)
        return y


class Llama(nn.Module):
    """transformers' LlamaModel: embeddings in, hidden states out."""

    def __init__(self, config: LlamaConfig):
        """The layers of a `config`, without weights."""
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(_Layer(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self._tables: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def cache(self, rows: int, most: int, slots: int | None = None) -> KVCache:
        """An empty cache of keys and values.

        Args:
            rows: sequences of a batch.
            most: tokens of a sequence.
            slots: how many sequences it can hold; see KVCache.
        """
        c = self.config
        width, like = c.kv_heads * c.head_width, self.norm.weight
        assert like is not None
        tables = self._rotary_tables(most, like.device)
        return KVCache(c.num_hidden_layers, rows, most, width, like, tables, slots)

    def _rotary_tables(self, most: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Kept for the next caches of that length: beside busy processes torch's sines, which are
        MKL's on threads of OpenMP, took 2 s.
        """
        found = self._tables.get((most, device))
        if found is None:
            with torch.inference_mode(False):
                positions = torch.arange(most, device=device)
                found = ops.rotary_table(positions, self.config.head_width, self.config.theta)
            if len(self._tables) >= 4:  # a run has two lengths, with guidance and without
                self._tables.clear()
            self._tables[most, device] = found
        return found

    def forward(self, x: Tensor, cache: KVCache) -> Tensor:
        """Hidden states after the last norm.

        Args:
            x: [N, L, hidden_size] embeddings, which come behind what the cache holds.
            cache: what comes before; they are added to it.

        Returns:
            [N, L, hidden_size].
        """
        x = cache.through(self, self._layers, x)
        cache.advance(x.shape[1])
        return x

    def _layers(self, x: Tensor, cache: KVCache) -> Tensor:
        for layer in self.layers:
            x = layer(x, cache)
        return self.norm(x)
