"""One Llama over text tokens and then picture tokens, as DALL-E has it.

Ramesh et al. 2021, arXiv:2102.12092.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Literal

from torch import Tensor

from ... import ops
from ...guard import inference
from ...layers import Linear
from ...weights import read_config
from .._ids import check_ids, check_length, last_of
from ..base import Model, raise_problems
from .kv_cache import KVCache
from .llama import Llama, LlamaConfig

_ID = {"min": 0, "max": 1 << 20}
_COUNT = {"min": 1, "max": 1 << 20}


@dataclass(frozen=True)
class PictureGPTConfig(LlamaConfig):
    """transformer/config.json: that of a LlamaForCausalLM with an output matrix of its own."""

    IGNORED_KEYS: ClassVar[frozenset[str]] = LlamaConfig.IGNORED_KEYS - {"tie_word_embeddings"}

    tie_word_embeddings: Literal[False] = False

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "PictureGPTConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)


@dataclass(frozen=True)
class PictureTokens:
    """tokens/config.json: which ids are text and which are pictures.

    A row is at most text_length ids of text, begin_of_picture, and side * side picture tokens in
    reading order. Token 0 of a picture has the id first_picture_token, token 0 of the text (as the
    tokenizer counts them) first_text_token. padding: an id that stands for nothing.
    """

    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("PictureTokens",)

    picture_tokens: int = field(metadata=_COUNT)
    text_tokens: int = field(metadata=_COUNT)
    begin_of_picture: int = field(metadata=_ID)
    padding: int = field(metadata=_ID)
    text_length: int = field(metadata={"min": 2, "max": 1 << 16})
    side: int = field(metadata={"min": 1, "max": 1024})
    first_picture_token: int = field(default=0, metadata=_ID)
    first_text_token: int = field(default=0, metadata=_ID)

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "PictureTokens":
        """The tokens that a config names.

        Args:
            d: the parsed config.json.
            where: how errors call it.

        Raises:
            ConfigError: that lists every problem.
        """
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        ranges = {
            "picture tokens": (self.first_picture_token, self.picture_tokens),
            "text tokens": (self.first_text_token, self.text_tokens),
            "begin_of_picture": (self.begin_of_picture, 1),
            "padding": (self.padding, 1),
        }
        ordered = sorted(ranges.items(), key=lambda item: item[1])
        problems = []
        for (one, (first, count)), (other, (start, _)) in pairwise(ordered):
            if first + count > start:
                problems.append(f"{one} and {other} share ids")
        raise_problems(problems)

    @property
    def last(self) -> int:
        """The largest id."""
        return max(
            self.first_picture_token + self.picture_tokens - 1,
            self.first_text_token + self.text_tokens - 1,
            self.begin_of_picture,
            self.padding,
        )

    @property
    def context(self) -> int:
        """The longest row."""
        return self.text_length + 1 + self.side**2


class _Head(Linear):
    """The output matrix, which can be asked for a range of its rows only."""

    def some(self, x: Tensor, first: int, count: int) -> Tensor:
        """x [..., C] -> [..., count]: the rows first to first + count - 1."""
        if not (self.packed and self.weight.dim() == 3):
            return self(x)[..., first : first + count]
        begin, skip = divmod(first, ops.PANEL)
        panels = self.weight[begin : -(-(first + count) // ops.PANEL)]
        scale = self.weight_scale
        if scale is not None:
            scale = scale[begin * ops.PANEL : first + count]
        return ops.linear(x, panels, None, out_features=skip + count, weight_scale=scale)[
            ..., skip:
        ]


class PictureGPT(Model):
    """transformers' LlamaForCausalLM.

    logits = gpt.next_logits(ids, gpt.cache(rows, most))       # [N, vocab_size]
    """

    config_class = PictureGPTConfig
    tiers = ("int8", "fp8")
    quantized_layers = ("model.layers.*", "lm_head")

    def __init__(self, config: PictureGPTConfig):
        super().__init__(config)
        self.model = Llama(config)
        self.lm_head = _Head(config.hidden_size, config.vocab_size, bias=False)

    def cache(self, rows: int, most: int, slots: int | None = None) -> KVCache:
        """An empty cache of keys and values.

        Args:
            rows: sequences of a batch.
            most: tokens of a sequence.
            slots: how many sequences it can hold; see KVCache.
        """
        return self.model.cache(rows, most, slots)

    @inference
    def next_logits(
        self,
        ids: Tensor,
        cache: KVCache,
        first: int = 0,
        count: int | None = None,
        every: bool = False,
        ends: Tensor | None = None,
    ) -> Tensor:
        """Logits of the id that follows.

        Args:
            ids: [N, L], which come behind what the cache holds.
            cache: what comes before; they are added to it.
            first: the first id whose logits are wanted.
            count: of how many ids, from first on; None: all.
            every: whether the logits after each of them are wanted.
            ends: where each row's text ends, see last_of.

        Returns:
            [N, count]; with every [N, L, count].

        Raises:
            RequestError: for ids that are no token, or more of them than the model's context.
        """
        c = self.config
        check_ids("ids", ids, c.vocab_size)
        limit = "max_position_embeddings", c.max_position_embeddings
        check_length("ids", cache.lengths, ids.shape[1], *limit)
        x = self.model.embed_tokens(ids.to(self.device)).to(self.dtype)
        x = self.model(x, cache)
        x = x if every else last_of(x, ends).contiguous()
        if count is None:
            return self.lm_head(x)
        return self.lm_head.some(x, first, count)
