"""Janus, for text to picture: a Llama that predicts codebook tokens, and a VQGAN's decoder.

Wu et al. 2024, arXiv:2410.13848; Chen et al. 2025, arXiv:2501.17811 (Janus-Pro).
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from ...guard import inference
from ...layers import Linear, WideEmbedding
from ...weights import read_config
from .._ids import check_ids, check_length, last_of
from ..autoencoder.janus_vq import JanusVQ, JanusVQConfig
from ..base import TRANSFORMERS_KEYS, Model, raise_problems
from .kv_cache import KVCache
from .layers import MLP
from .llama import Llama, LlamaConfig


@dataclass(frozen=True)
class JanusVisionConfig:
    """vision_config: of what reads pictures, which is not used here, but it has their size."""

    IGNORED_KEYS: ClassVar[frozenset[str]] = TRANSFORMERS_KEYS | frozenset(
        """
        attention_bias attention_dropout depth hidden_act hidden_dropout_rate hidden_size
        initializer_range layer_norm_eps mlp_ratio model_type num_attention_heads num_channels
        num_hidden_layers projection_dim projection_dropout use_qk_norm
        """.split()  # noqa: SIM905
    )

    image_size: int = field(default=384, metadata={"min": 1, "max": 8192})
    patch_size: int = field(default=16, metadata={"min": 1, "max": 8192})
    num_image_tokens: int = field(default=576, metadata={"min": 1, "max": 1 << 20})


@dataclass(frozen=True)
class JanusConfig:
    """config.json; names and defaults are transformers'."""

    IGNORED_KEYS: ClassVar[frozenset[str]] = TRANSFORMERS_KEYS | frozenset({"initializer_range"})

    text_config: LlamaConfig = field(default_factory=LlamaConfig)
    vision_config: JanusVisionConfig = field(default_factory=JanusVisionConfig)
    vq_config: JanusVQConfig = field(default_factory=JanusVQConfig)
    image_token_id: int = field(default=100581, metadata={"min": 0, "max": 1 << 20})
    model_type: Literal["janus"] = "janus"

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "JanusConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        problems = []
        text, vision, vq = self.text_config, self.vision_config, self.vq_config
        if vision.num_image_tokens != self.side**2:
            problems.append(
                f"vision_config: num_image_tokens {vision.num_image_tokens}, but image_size"
                f" {vision.image_size} and patch_size {vision.patch_size} make {self.side**2}"
            )
        for name in ("projection_dim", "image_token_embed_dim"):
            if getattr(vq, name) != text.hidden_size:
                problems.append(
                    f"vq_config: {name} {getattr(vq, name)}, but text_config's hidden_size is"
                    f" {text.hidden_size}"
                )
        raise_problems(problems)

    @property
    def side(self) -> int:
        """Tokens along each side of a picture."""
        return self.vision_config.image_size // self.vision_config.patch_size


class _Head(nn.Module):
    def __init__(self, c: JanusVQConfig):
        super().__init__()
        self.proj_out = Linear(c.image_token_embed_dim, c.projection_dim)
        self.vision_head = Linear(c.projection_dim, c.num_embeddings)

    def forward(self, x: Tensor) -> Tensor:
        return self.vision_head(self.proj_out(x, activation="gelu"))


class _Parts(nn.Module):
    def __init__(self, c: JanusConfig):
        super().__init__()
        vq = c.vq_config
        self.vqmodel = JanusVQ(vq)
        self.generation_embeddings = WideEmbedding(vq.num_embeddings, vq.embed_dim)
        self.generation_aligner = MLP(vq.embed_dim, vq.projection_dim, vq.num_hidden_layers)
        self.generation_head = _Head(vq)
        self.language_model = Llama(c.text_config)


class Janus(Model):
    """transformers' JanusForConditionalGeneration, without what reads pictures and writes text."""

    config_class = JanusConfig
    tiers = ("int8", "fp8")
    quantized_layers = ("model.language_model.layers.*", "model.generation_head.*")
    harmless_extra = ("model.vision_model.*", "model.aligner.*", "lm_head.weight")

    def __init__(self, config: JanusConfig):
        super().__init__(config)
        self.model = _Parts(config)

    @property
    def vq(self) -> JanusVQ:
        return self.model.vqmodel

    def cache(self, rows: int, most: int, slots: int | None = None) -> KVCache:
        """An empty cache of keys and values.

        Args:
            rows: sequences of a batch.
            most: tokens of a sequence.
            slots: how many sequences it can hold; see KVCache.
        """
        return self.model.language_model.cache(rows, most, slots)

    @inference
    def read_text(self, input_ids: Tensor, cache: KVCache, ends: Tensor | None = None) -> Tensor:
        """Logits of the picture token after a text.

        Args:
            input_ids: [N, L], a text.
            cache: what comes before; they are added to it.
            ends: where each row's text ends, see last_of.

        Returns:
            [N, num_embeddings].

        Raises:
            RequestError: for ids that are no token.
        """
        check_ids("input_ids", input_ids, self.config.text_config.vocab_size)
        ids = input_ids.to(self.device)
        # The table may be narrower than the activations.
        x = self.model.language_model.embed_tokens(ids).to(self.dtype)
        return self._logits(x, cache, ends=ends)

    @inference
    def read_tokens(self, tokens: Tensor, cache: KVCache, every: bool = False) -> Tensor:
        """Logits of the picture token after others.

        Args:
            tokens: [N, L] of a picture.
            cache: what comes before; they are added to it.
            every: whether the logits after each of them are wanted.

        Returns:
            [N, num_embeddings]; with every [N, L, num_embeddings].
        """
        check_ids("tokens", tokens, self.config.vq_config.num_embeddings)
        tokens = tokens.to(self.device)
        x = self.model.generation_aligner(self.model.generation_embeddings(tokens))
        return self._logits(x, cache, every)

    def _logits(
        self, x: Tensor, cache: KVCache, every: bool = False, ends: Tensor | None = None
    ) -> Tensor:
        most = self.config.text_config.max_position_embeddings
        check_length("input_ids", cache.lengths, x.shape[1], "max_position_embeddings", most)
        x = self.model.language_model(x, cache)
        logits: Tensor = self.model.generation_head(x if every else last_of(x, ends))
        return logits
