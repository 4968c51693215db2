"""A small transformer that predicts the masked tokens of a picture from the others and a text.

Chang et al. 2022, arXiv:2202.04200 (MaskGIT). Every layer attends to the picture's positions and
to the text at once; the text stays what it is from layer to layer, so that its keys and values are
made once, not once per step.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ... import ops
from ...errors import RequestError
from ...guard import inference
from ...layers import Embedding, Fused, Linear, RMSNorm, WideEmbedding, fuse
from ...weights import read_config
from .._ids import check_range
from ..base import Model, raise_problems
from .uvit import UVitContext


def _bounds(low: float, high: float) -> dict[str, float]:
    return {"min": low, "max": high}


_WIDTH = _bounds(1, 16384)


@dataclass(frozen=True)
class MaskedTransformerConfig:
    """transformer/config.json.

    embedding_size: width of a token before and after the layers. codebook_size: tokens of a
    picture; the one after them is the mask. sample_size: tokens along each side of a picture.
    encoder_hidden_size: of the text encoder. text_encoder, vqvae: the shipped models that have the
    text encoder and the VQ-VAE.
    """

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("MaskedTransformer",)

    text_encoder: Literal["emoji"]
    vqvae: Literal["emoji-ar"]
    hidden_size: int = field(default=128, metadata=_WIDTH)
    intermediate_size: int = field(default=256, metadata=_WIDTH)
    num_hidden_layers: int = field(default=4, metadata=_bounds(1, 256))
    num_attention_heads: int = field(default=4, metadata=_bounds(1, 256))
    embedding_size: int = field(default=64, metadata=_WIDTH)
    codebook_size: int = field(default=1024, metadata=_bounds(1, (1 << 20) - 1))
    sample_size: int = field(default=8, metadata=_bounds(1, 256))
    encoder_hidden_size: int = field(default=128, metadata=_WIDTH)
    rms_norm_eps: float = field(default=1e-6, metadata=_bounds(0, 1))

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "MaskedTransformerConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        problems = []
        if self.hidden_size % self.num_attention_heads:
            problems.append(
                f"hidden_size {self.hidden_size} is no multiple of num_attention_heads"
                f" {self.num_attention_heads}"
            )
        raise_problems(problems)

    @property
    def mask_token(self) -> int:
        return self.codebook_size

    @property
    def vocab_size(self) -> int:
        """The picture's tokens and the mask."""
        return self.codebook_size + 1

    @property
    def multiple(self) -> int:
        """What the height and the width of a picture in tokens must be multiples of."""
        return self.sample_size


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = Linear(width, width, bias=False)
        self.to_k = Linear(width, width, bias=False)
        self.to_v = Linear(width, width, bias=False)
        self.to_out = Linear(width, width, bias=False)
        self.to_qkv: Fused | None = None

    def pack(self) -> None:
        if self.to_qkv is None:
            self.to_qkv = fuse(self, "to_q", "to_k", "to_v")

    def queries_keys_values(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.to_qkv is not None:
            return tuple(self.to_qkv(x))
        return self.to_q(x), self.to_k(x), self.to_v(x)

    def forward(self, x: Tensor, text: tuple[Tensor, Tensor], residual: Tensor) -> Tensor:
        q, k, v = self.queries_keys_values(x)
        k, v = torch.cat([text[0], k], dim=1), torch.cat([text[1], v], dim=1)
        y: Tensor = self.to_out(ops.attention(q, k, v, self.heads), residual=residual)
        return y


class _FeedForward(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.up = Linear(width, inner, bias=False)
        self.gate = Linear(width, inner, bias=False)
        self.down = Linear(inner, width, bias=False)
        self.up_gate: Fused | None = None

    def pack(self) -> None:
        if self.up_gate is None:
            self.up_gate = fuse(self, "up", "gate")

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        if self.up_gate is not None:
            both = self.up_gate.joined(x)
        else:
            both = torch.cat([self.up(x), self.gate(x)], dim=-1)
        y: Tensor = self.down(ops.swiglu(both), residual=residual)
        return y


class _Layer(nn.Module):
    def __init__(self, c: MaskedTransformerConfig):
        super().__init__()
        self.norm1 = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.attention = _Attention(c.hidden_size, c.num_attention_heads)
        self.norm2 = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.feed_forward = _FeedForward(c.hidden_size, c.intermediate_size)

    def forward(self, x: Tensor, text: tuple[Tensor, Tensor]) -> Tensor:
        x = self.attention(self.norm1(x), text, residual=x)
        y: Tensor = self.feed_forward(self.norm2(x), residual=x)
        return y


class MaskedTransformer(Model):
    """Logits of every token of a picture, for decoding/masked.py.

    context = model.encode_context(hidden_states, pooled)
    logits = model.logits(tokens, context)                      # [N, h, w, codebook_size]
    """

    config_class = MaskedTransformerConfig

    def __init__(self, config: MaskedTransformerConfig):
        super().__init__(config)
        c = config
        self.embed = Embedding(c.vocab_size, c.embedding_size)
        self.project_in = Linear(c.embedding_size, c.hidden_size, bias=False)
        # Wide, so that the sum with it is in the model's dtype.
        self.positions = WideEmbedding(c.sample_size**2, c.hidden_size)
        self.text = Linear(c.encoder_hidden_size, c.hidden_size, bias=False)
        self.text_norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.pooled = Linear(c.encoder_hidden_size, c.hidden_size, bias=False)
        self.layers = nn.ModuleList(_Layer(c) for _ in range(c.num_hidden_layers))
        self.norm = RMSNorm(c.hidden_size, c.rms_norm_eps)
        self.project_out = Linear(c.hidden_size, c.embedding_size, bias=False)
        self.head = Linear(c.embedding_size, c.codebook_size)

    @inference
    def encode_context(self, hidden: Tensor, pooled: Tensor) -> UVitContext:
        """What `logits` is told besides tokens.

        Args:
            hidden: [N, T, encoder_hidden_size], the text's hidden states.
            pooled: [N, encoder_hidden_size], that of its end token.
        """
        n, width = len(hidden), self.config.encoder_hidden_size
        for name, x, shape in (("hidden", hidden, (n, -1, width)), ("pooled", pooled, (n, width))):
            fits = x.dim() == len(shape) and x.shape[-1] == width and len(x) == n
            if not fits or not x.numel():
                raise RequestError(f"{name}: expected {list(shape)}, got {list(x.shape)}")
        words = self.text_norm(self.text(hidden.to(self.device, self.dtype)))
        layers = []
        for layer in self.layers:
            assert isinstance(layer, _Layer)
            layers.append(layer.attention.queries_keys_values(words)[1:])
        return UVitContext([], layers, [self.pooled(pooled.to(self.device, self.dtype))], n)

    @inference
    def logits(self, input_ids: Tensor, context: UVitContext) -> Tensor:
        """Logits of every token of pictures.

        Args:
            input_ids: [N, h, w], integers below vocab_size.
            context: of `encode_context`.

        Returns:
            [N, h, w, codebook_size].
        """
        c = self.config
        shape = (context.rows, c.sample_size, c.sample_size)
        if input_ids.shape != shape or input_ids.is_floating_point():
            raise RequestError(
                f"input_ids: expected integers {list(shape)}, got"
                f" {input_ids.dtype} {list(input_ids.shape)}"
            )
        check_range("input_ids", input_ids, c.vocab_size)
        x = self.project_in(self.embed(input_ids.to(self.device).flatten(1)).to(self.dtype))
        x = x + self.positions.weight + context.up[0][:, None]
        for layer, text in zip(self.layers, context.layers, strict=True):
            x = layer(x, text)
        logits: Tensor = self.head(self.project_out(self.norm(x)))
        return logits.view(*shape, -1)

    def forward(self, input_ids: Tensor, hidden: Tensor, pooled: Tensor) -> Tensor:
        """Logits of every token of pictures.

        Args:
            input_ids: [N, h, w], integers below vocab_size.
            hidden, pooled: as `encode_context` takes them.

        Returns:
            [N, h, w, codebook_size].
        """
        found: Tensor = self.logits(input_ids, self.encode_context(hidden, pooled))
        return found
