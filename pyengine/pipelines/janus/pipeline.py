"""Janus: text to picture, token by token.

Wu et al. 2024, arXiv:2410.13848; Chen et al. 2025, arXiv:2501.17811 (Janus-Pro).
"""

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from ... import images as pictures
from ...decoding.decoder import Decoder
from ...decoding.request import TokenRequest
from ...errors import ConfigError
from ...jobs import checks
from ...models import Janus, JanusConfig
from ...weights import read_config
from ..json_tokenizer import JsonTokenizer
from ..prefix import read_prefix
from ..text_tokens import TextTokensPipeline
from ..tokens import TokenDefaults

_ID = {"min": 0, "max": 1 << 20}


@dataclass(frozen=True)
class JanusDefaults(TokenDefaults):
    """template: what the model is given for a prompt, which takes the place of {}."""

    guidance_scale: float = 5.0
    template: str = "<|User|>: {}\n\n<|Assistant|>:"

    def __post_init__(self) -> None:
        if "{}" not in self.template:
            raise ValueError("template has no {} for the prompt")


@dataclass(frozen=True)
class PictureToken:
    boi_token_id: int = field(metadata=_ID)


@dataclass(frozen=True)
class JanusTokens:
    """generation_config.json: which ids begin a text, stand for nothing, and begin a picture."""

    bos_token_id: int = field(metadata=_ID)
    pad_token_id: int = field(metadata=_ID)
    generation_kwargs: PictureToken = field()

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "generation_config.json") -> "JanusTokens":
        """From the parsed JSON, whose other keys do not matter; raises ConfigError."""
        chosen = {name: d[name] for name in cls.__dataclass_fields__ if name in d}
        inner = chosen.get("generation_kwargs")
        if isinstance(inner, dict):
            chosen["generation_kwargs"] = {k: v for k, v in inner.items() if k == "boi_token_id"}
        return read_config(cls, chosen, where)


class JanusPipeline(TextTokensPipeline):
    """Text to pictures with a Janus checkpoint; see `__call__`."""

    defaults_class = JanusDefaults
    model: Janus
    defaults: JanusDefaults

    def __init__(
        self,
        model: Janus,
        tokenizer: JsonTokenizer,
        tokens: JanusTokens,
        checkpoint: Any,
        source: str,
        defaults: JanusDefaults,
    ):
        super().__init__(model, checkpoint, source, defaults)
        self.tokenizer, self.tokens = tokenizer, tokens

    @property
    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels, the only size that the model draws."""
        side = self.model.config.side * self.model.vq.config.downscale
        return side, side

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) of a picture in tokens."""
        return self.model.config.side, self.model.config.side

    def _new_decoder(self) -> Decoder:
        c = self.model.config
        return Decoder(
            self.model,
            self.source,
            self.device,
            length=c.side**2,
            vocab_size=c.vq_config.num_embeddings,
            limit=c.text_config.max_position_embeddings,
        )

    def _prefix(self, prefix: Any, r: TokenRequest) -> Tensor:
        vq = self.model.vq
        return read_prefix(
            prefix,
            r,
            self.grid,
            vq.config.downscale,
            vq.config.num_embeddings,
            lambda x: vq.encode_tokens(2 * x - 1).flatten(1),
        )

    def _texts(self, r: TokenRequest) -> list[list[int]]:
        """Ids for every row: each prompt's, then, with guidance, what it is compared with."""
        prompts = [self._ids("prompt", p) for p in cast("list[str]", r.prompts)]
        rows = [ids for ids in prompts for _ in range(r.per_prompt)]
        if r.guidance_scale <= 1:
            return rows
        if r.negatives is not None:
            others = [self._ids("negative_prompt", p) for p in r.negatives]
        else:
            kept = (self.tokens.bos_token_id, self.tokens.generation_kwargs.boi_token_id)
            others = [[i if i in kept else self.tokens.pad_token_id for i in p] for p in prompts]
        return rows + [ids for ids in others for _ in range(r.per_prompt)]

    def _ids(self, name: str, prompt: str) -> list[int]:
        """Ids of a prompt in the template, from the token that begins a text to a picture's."""
        ids = self.tokenizer.encode(self.defaults.template.replace("{}", prompt.strip()))
        if ids[:1] != [self.tokens.bos_token_id]:
            ids = [self.tokens.bos_token_id, *ids]
        ids.append(self.tokens.generation_kwargs.boi_token_id)
        c = self.model.config
        most = c.text_config.max_position_embeddings - c.side**2
        if len(ids) > most:
            raise checks.refuse(
                name,
                f"at most {most} tokens, since max_position_embeddings is"
                f" {c.text_config.max_position_embeddings} and the picture takes {c.side**2}",
                f"{len(ids)} tokens",
            )
        return ids

    def _decode(self, tokens: Tensor, output_type: str) -> Any:
        # One by one: the decoder takes the most memory. A token that was never drawn is 0.
        decoded = [self.model.vq.decode_tokens(t[None].clamp(min=0)) for t in tokens]
        return pictures.from_tensor(self._pictures(torch.cat(decoded)), output_type)


def check_tokens_fit(config: JanusConfig, tokens: JanusTokens, tokenizer: JsonTokenizer) -> None:
    """Raises ConfigError where token ids do not fit the model's config."""
    vocab = config.text_config.vocab_size
    given = {
        "bos_token_id": tokens.bos_token_id,
        "pad_token_id": tokens.pad_token_id,
        "generation_kwargs: boi_token_id": tokens.generation_kwargs.boi_token_id,
    }
    problems = [
        f"generation_config.json: {name} {value}, but text_config's vocab_size is {vocab}"
        for name, value in given.items()
        if value >= vocab
    ]
    if tokenizer.size > vocab:
        problems.append(
            f"tokenizer.json: ids up to {tokenizer.size - 1}, but text_config's vocab_size is"
            f" {vocab}"
        )
    if config.side**2 >= config.text_config.max_position_embeddings:
        problems.append(
            f"text_config: max_position_embeddings {config.text_config.max_position_embeddings}"
            f" leaves no room for a text beside {config.side**2} picture tokens"
        )
    if problems:
        raise ConfigError("; ".join(problems))
