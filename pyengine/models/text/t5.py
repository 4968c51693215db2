"""The encoder of T5 1.0 and 1.1, which reads prompts for DeepFloyd IF.

Raffel et al. 2020, arXiv:1910.10683; Shazeer 2020, arXiv:2002.05202 (1.1's gated GELU).
"""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ... import ops
from ...guard import inference
from ...layers import Fused, Linear, RMSNorm, WideEmbedding, fuse
from ...weights import read_config
from .._ids import check_ids
from ..base import TRANSFORMERS_KEYS, Model, Output, raise_problems
from .masks import hidden_keys

_UNUSED = {
    *("classifier_dropout", "dropout_rate", "initializer_factor"),  # training
    *("num_decoder_layers", "scale_decoder_outputs"),  # the decoder
    *("n_positions", "output_past"),  # of transformers 2: neither limits an encoder
    "eos_token_id",
}


def _bounds(low: float, high: float) -> dict[str, float]:
    return {"min": low, "max": high}


@dataclass(frozen=True)
class T5Config:
    """A T5's config.json; names and defaults are transformers'."""

    IGNORED_KEYS: ClassVar[frozenset[str]] = TRANSFORMERS_KEYS | _UNUSED

    vocab_size: int = field(default=32128, metadata=_bounds(1, 1 << 20))
    d_model: int = field(default=512, metadata=_bounds(1, 16384))
    d_kv: int = field(default=64, metadata=_bounds(1, 1024))
    d_ff: int = field(default=2048, metadata=_bounds(1, 131072))
    num_layers: int = field(default=6, metadata=_bounds(1, 128))
    num_heads: int = field(default=8, metadata=_bounds(1, 256))
    relative_attention_num_buckets: int = field(default=32, metadata=_bounds(4, 4096))
    relative_attention_max_distance: int = field(default=128, metadata=_bounds(2, 65536))
    layer_norm_epsilon: float = field(default=1e-6, metadata=_bounds(0, 1))
    feed_forward_proj: Literal["relu", "gated-gelu"] = "relu"
    #: What transformers derives from feed_forward_proj, and saves beside it.
    dense_act_fn: Literal["relu", "gelu_new"] | None = None
    is_gated_act: bool | None = None
    model_type: Literal["t5"] = "t5"

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "T5Config":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        problems = []
        buckets, most = self.relative_attention_num_buckets, self.relative_attention_max_distance
        # A quarter of the buckets is for single distances, each way; the next end at the most.
        if buckets // 4 >= most:
            problems.append(
                f"relative_attention_max_distance {most} is too small for"
                f" relative_attention_num_buckets {buckets}: expected at least {buckets // 4 + 1}"
            )
        expected = ("gelu_new", True) if self.gated else ("relu", False)
        for name, want in zip(("dense_act_fn", "is_gated_act"), expected, strict=True):
            if getattr(self, name) not in (None, want):
                problems.append(
                    f"{name} is {getattr(self, name)!r}, expected {want!r} beside"
                    f" feed_forward_proj {self.feed_forward_proj!r}"
                )
        raise_problems(problems)

    @property
    def gated(self) -> bool:
        """Whether it is T5 1.1's feed-forward."""
        return self.feed_forward_proj == "gated-gelu"


@dataclass
class T5EncoderOutput(Output):
    """last_hidden_state: [N, L, d_model], after the final norm; hidden_states: None, or the
    embeddings and every layer's [N, L, d_model], of the last after the final norm.
    """

    last_hidden_state: Tensor
    hidden_states: tuple[Tensor, ...] | None = None


# --- network --------------------------------------------------------------------------------------


class _Attention(nn.Module):
    """Self-attention without a scale: it is in the weights.

    biased: has the table of relative positions; one layer's serves all.
    """

    def __init__(self, c: T5Config, biased: bool):
        super().__init__()
        width = c.num_heads * c.d_kv
        self.heads = c.num_heads
        self.q = Linear(c.d_model, width, bias=False)
        self.k = Linear(c.d_model, width, bias=False)
        self.v = Linear(c.d_model, width, bias=False)
        self.o = Linear(width, c.d_model, bias=False)
        self.qkv: Fused | None = None
        if biased:
            self.relative_attention_bias = WideEmbedding(
                c.relative_attention_num_buckets, c.num_heads
            )

    def pack(self) -> None:
        if self.qkv is None:
            self.qkv = fuse(self, "q", "k", "v")

    def forward(self, x: Tensor, mask: Tensor, residual: Tensor) -> Tensor:
        q, k, v = (self.q(x), self.k(x), self.v(x)) if self.qkv is None else self.qkv(x)
        y: Tensor = ops.attention(q, k, v, self.heads, mask=mask, scale=1.0)
        y = self.o(y, residual=residual)
        return y


class _AttentionLayer(nn.Module):
    def __init__(self, c: T5Config, biased: bool):
        super().__init__()
        self.SelfAttention = _Attention(c, biased)
        self.layer_norm = RMSNorm(c.d_model, c.layer_norm_epsilon)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y: Tensor = self.SelfAttention(self.layer_norm(x), mask, residual=x)
        return y


class _Dense(nn.Module):
    """T5 1.0's feed-forward."""

    def __init__(self, c: T5Config):
        super().__init__()
        self.wi = Linear(c.d_model, c.d_ff, bias=False)
        self.wo = Linear(c.d_ff, c.d_model, bias=False)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        # No op has this activation: plain torch, in place, a row's bits its own.
        y: Tensor = self.wo(self.wi(x).relu_(), residual=residual)
        return y


class _GatedDense(nn.Module):
    """T5 1.1's: gelu_tanh(wi_0 x) * wi_1 x."""

    def __init__(self, c: T5Config):
        super().__init__()
        self.wi_0 = Linear(c.d_model, c.d_ff, bias=False)
        self.wi_1 = Linear(c.d_model, c.d_ff, bias=False)
        self.wo = Linear(c.d_ff, c.d_model, bias=False)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        inner = self.wi_0(x, activation="gelu_tanh").mul_(self.wi_1(x))
        y: Tensor = self.wo(inner, residual=residual)
        return y


class _DenseLayer(nn.Module):
    def __init__(self, c: T5Config):
        super().__init__()
        self.DenseReluDense = _GatedDense(c) if c.gated else _Dense(c)
        self.layer_norm = RMSNorm(c.d_model, c.layer_norm_epsilon)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.DenseReluDense(self.layer_norm(x), residual=x)
        return y


class _Block(nn.Module):
    def __init__(self, c: T5Config, biased: bool):
        super().__init__()
        self.layer = nn.ModuleList([_AttentionLayer(c, biased), _DenseLayer(c)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        attention, dense = self.layer
        y: Tensor = _held(dense(_held(attention(x, mask))))
        return y


def _held(x: Tensor) -> Tensor:
    """x within float16: T5's largest activations go beyond it, and would be infinite from then on.
    As transformers has it; other dtypes hold them.
    """
    most = torch.finfo(x.dtype).max - 1000 if x.dtype == torch.float16 else None
    return x if most is None else x.clamp(-most, most)


class _Encoder(nn.Module):
    def __init__(self, c: T5Config):
        super().__init__()
        self.block = nn.ModuleList(_Block(c, i == 0) for i in range(c.num_layers))
        self.final_layer_norm = RMSNorm(c.d_model, c.layer_norm_epsilon)

    def position_bias(self, buckets: Tensor) -> Tensor:
        """[1, heads, L, L] float32 of buckets [L, L]."""
        table = self.get_submodule("block.0.layer.0.SelfAttention.relative_attention_bias")
        bias: Tensor = table(buckets).float().permute(2, 0, 1)[None].contiguous()
        return bias


def buckets_of_distances(count: int, most: int) -> Tensor:
    """[most + 1] int64: the bucket of every distance from 0 to `most`; larger ones have the last's.

    count: buckets of one direction. The first half is of one distance each, the others widen
    logarithmically up to `most`. float32, as the models were trained; always over the same
    distances, since the last bit of a logarithm may depend on the length of a tensor.
    """
    single = count // 2
    distances = torch.arange(most + 1)
    share = torch.log(distances.float() / single) / math.log(most / single)
    wide = single + (share * (count - single)).clamp(min=0).to(torch.long)
    return torch.where(distances < single, distances, wide.clamp(max=count - 1))


class T5EncoderModel(Model):
    """T5's encoder; a whole T5's files serve too, their decoder is left unread."""

    config_class = T5Config
    harmless_extra = ("encoder.embed_tokens.weight", "decoder.*", "lm_head.weight")
    aliases: ClassVar[dict[str, str]] = {"encoder.embed_tokens.weight": "shared.weight"}

    def __init__(self, config: T5Config):
        super().__init__(config)
        self.shared = WideEmbedding(config.vocab_size, config.d_model)
        self.encoder = _Encoder(config)

    @inference
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        output_hidden_states: bool = False,
        return_dict: bool = True,
    ) -> T5EncoderOutput | tuple[Tensor, ...]:
        """Hidden states of texts.

        Args:
            input_ids: [N, L] integers, of any L.
            attention_mask: [N, L], 0 hides a token from the others.
            output_hidden_states: whether every layer's are in the result, too.
            return_dict: False gives a tuple in place of an object with names.

        Returns:
            [N, L, d_model], as `last_hidden_state` of the result.

        Raises:
            RequestError: for ids that are no row of the vocabulary, and masks of other shapes.
        """
        check_ids("input_ids", input_ids, self.config.vocab_size)
        ids = input_ids.to(self.device)
        mask = self.encoder.position_bias(self.buckets(ids.shape[1], ids.device))
        if attention_mask is not None:
            mask = mask + hidden_keys(attention_mask, ids, torch.float32)
        x = self.shared(ids)
        states = [x]
        for block in self.encoder.block:
            x = block(x, mask)
            states.append(x)
        states[-1] = last = self.encoder.final_layer_norm(x)
        out = T5EncoderOutput(last, tuple(states) if output_hidden_states else None)
        return out if return_dict else out.to_tuple()

    def buckets(self, length: int, device: torch.device) -> Tensor:
        """The buckets of relative positions.

        Args:
            length: of the texts, in tokens.
            device: where they are to be.

        Returns:
            [length, length]: row i has, of every key j, the bucket of j - i.
        """
        c = self.config
        one_way = c.relative_attention_num_buckets // 2
        table = buckets_of_distances(one_way, c.relative_attention_max_distance).to(device)
        positions = torch.arange(length, device=device)
        offsets = positions[None, :] - positions[:, None]
        near = table[offsets.abs().clamp(max=len(table) - 1)]
        found: Tensor = near + one_way * (offsets > 0)
        return found
