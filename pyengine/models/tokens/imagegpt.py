"""ImageGPT: a picture's pixels, as clusters of colours, one after another.

Chen et al. 2020, "Generative Pretraining from Pixels".
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from ...guard import inference
from ...layers import Embedding, Linear, RMSNorm, TransposedLinear, WideEmbedding
from ...weights import read_config
from .._ids import check_ids, check_length
from ..base import ACTIVATIONS, TRANSFORMERS_KEYS, Model, raise_problems
from .kv_cache import KVCache


def _bounds(low: float, high: float) -> dict[str, Any]:
    return {"min": low, "max": high}


@dataclass(frozen=True)
class ImageGPTConfig:
    """config.json; names and defaults are transformers'."""

    # transformers reads activation_function and never hidden_act, which other models' configs have.
    IGNORED_KEYS: ClassVar[frozenset[str]] = (
        TRANSFORMERS_KEYS
        | frozenset({"initializer_range", "resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_act"})
    ) - frozenset({"add_cross_attention", "eos_token_id", "pad_token_id", "tie_word_embeddings"})

    vocab_size: int = field(default=513, metadata=_bounds(2, 1 << 17))
    n_positions: int = field(default=1024, metadata=_bounds(1, 1 << 16))
    n_embd: int = field(default=512, metadata=_bounds(1, 16384))
    n_layer: int = field(default=24, metadata=_bounds(1, 256))
    n_head: int = field(default=8, metadata=_bounds(1, 256))
    n_inner: int | None = field(default=None, metadata=_bounds(1, 65536))
    activation_function: Literal["quick_gelu", "gelu", "silu", "swish"] = "quick_gelu"
    layer_norm_epsilon: float = field(default=1e-5, metadata=_bounds(0, 1))
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    #: How transformers orders and rounds in half precision; here scores are always float32.
    reorder_and_upcast_attn: bool = False
    model_type: Literal["imagegpt"] = "imagegpt"
    #: A cluster that ends a picture; no published model has one.
    eos_token_id: int | None = field(default=None, metadata=_bounds(0, 1 << 17))
    pad_token_id: int | None = field(default=None, metadata=_bounds(0, 1 << 17))
    add_cross_attention: Literal[False] = False
    tie_word_embeddings: Literal[False] = False

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "ImageGPTConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        problems = []
        if self.n_embd % self.n_head:
            problems.append(f"n_embd {self.n_embd} is no multiple of n_head {self.n_head}")
        for name in ("eos_token_id", "pad_token_id"):
            value = getattr(self, name)
            if value is not None and value >= self.codes:
                problems.append(f"{name} {value} is no cluster: expected 0 to {self.codes - 1}")
        raise_problems(problems)

    @property
    def codes(self) -> int:
        """How many clusters there are; the token after them begins a picture."""
        return self.vocab_size - 1

    @property
    def inner(self) -> int:
        return 4 * self.n_embd if self.n_inner is None else self.n_inner


# --- network --------------------------------------------------------------------------------------


class _Attention(nn.Module):
    def __init__(self, c: ImageGPTConfig, layer: int):
        super().__init__()
        self.layer, self.heads = layer, c.n_head
        self.scale = (c.n_embd // c.n_head) ** -0.5 if c.scale_attn_weights else 1.0
        if c.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1
        self.c_attn = TransposedLinear(c.n_embd, 3 * c.n_embd)
        self.c_proj = TransposedLinear(c.n_embd, c.n_embd)

    def forward(self, x: Tensor, cache: KVCache, residual: Tensor) -> Tensor:
        q, k, v = self.c_attn(x).chunk(3, dim=-1)
        y = cache.attend(self.layer, q, k, v, self.heads, self.scale)
        return self.c_proj(y, residual=residual)


class _MLP(nn.Module):
    def __init__(self, c: ImageGPTConfig):
        super().__init__()
        self.activation = ACTIVATIONS[c.activation_function]
        self.c_fc = TransposedLinear(c.n_embd, c.inner)
        self.c_proj = TransposedLinear(c.inner, c.n_embd)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.c_proj(self.c_fc(x, activation=self.activation), residual=residual)


class _Block(nn.Module):
    def __init__(self, c: ImageGPTConfig, layer: int):
        super().__init__()
        # Called layer norms, but without a mean or a shift.
        self.ln_1 = RMSNorm(c.n_embd, c.layer_norm_epsilon)
        self.attn = _Attention(c, layer)
        self.ln_2 = RMSNorm(c.n_embd, c.layer_norm_epsilon)
        self.mlp = _MLP(c)

    def forward(self, x: Tensor, cache: KVCache) -> Tensor:
        x = self.attn(self.ln_1(x), cache, residual=x)
        y: Tensor = self.mlp(self.ln_2(x), residual=x)
        return y


class _Transformer(nn.Module):
    def __init__(self, c: ImageGPTConfig):
        super().__init__()
        self.wte = Embedding(c.vocab_size, c.n_embd)
        # Wide, so that the sum of both tables is in the model's dtype.
        self.wpe = WideEmbedding(c.n_positions, c.n_embd)
        self.h = nn.ModuleList(_Block(c, i) for i in range(c.n_layer))
        self.ln_f = RMSNorm(c.n_embd, c.layer_norm_epsilon)

    def forward(self, ids: Tensor, cache: KVCache) -> Tensor:
        x = self.wte(ids) + self.wpe(cache.positions(ids.shape[1]))
        x = cache.through(self, self._layers, x)
        cache.advance(ids.shape[1])
        return x

    def _layers(self, x: Tensor, cache: KVCache) -> Tensor:
        for block in self.h:
            x = block(x, cache)
        return self.ln_f(x)


# --- model ----------------------------------------------------------------------------------------


class ImageGPT(Model):
    """transformers' ImageGPTForCausalImageModeling."""

    config_class = ImageGPTConfig
    # Causal masks, which transformers 4 saved.
    harmless_extra = ("transformer.h.*.attn.bias", "transformer.h.*.attn.masked_bias")

    def __init__(self, config: ImageGPTConfig):
        super().__init__(config)
        self.transformer = _Transformer(config)
        self.lm_head = Linear(config.n_embd, config.codes, bias=False)

    def cache(self, rows: int, most: int, slots: int | None = None) -> KVCache:
        """An empty cache of keys and values.

        Args:
            rows: sequences of a batch.
            most: tokens of a sequence.
            slots: how many sequences it can hold; see KVCache.
        """
        c = self.config
        like = self.transformer.ln_f.weight
        assert like is not None
        return KVCache(c.n_layer, rows, most, c.n_embd, like, slots=slots)

    @inference
    def forward(self, input_ids: Tensor) -> Tensor:
        """[N, L, vocab_size - 1]: logits of the token after each of input_ids [N, L].

        vocab_size - 1 is the token that begins a picture. Raises RequestError for ids that are no
        token, or more of them than n_positions.
        """
        ids = self._checked(input_ids, input_ids.new_zeros(1))
        return self.lm_head(self.transformer(ids, self.cache(*ids.shape)))

    @inference
    def next_logits(self, input_ids: Tensor, cache: KVCache, every: bool = False) -> Tensor:
        """Logits of the token that follows.

        Args:
            input_ids: [N, L] clusters, which come behind what the cache holds.
            cache: what comes before; they are added to it.
            every: whether the logits after each of them are wanted.

        Returns:
            [N, vocab_size - 1]; with every [N, L, vocab_size - 1].
        """
        ids = self._checked(input_ids, cache.lengths)
        x = self.transformer(ids, cache)
        return self.lm_head(x if every else x[:, -1])

    def _checked(self, ids: Tensor, lengths: Tensor) -> Tensor:
        c = self.config
        check_ids("input_ids", ids, c.vocab_size)
        check_length("input_ids", lengths, ids.shape[1], "n_positions", c.n_positions)
        return ids.to(self.device)
