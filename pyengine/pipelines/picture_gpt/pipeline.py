"""Text to picture with one transformer over text tokens and then picture tokens: emoji-ar.

Ramesh et al. 2021, arXiv:2102.12092 (DALL-E).
"""

from dataclasses import dataclass
from typing import Any, cast

from torch import Tensor

from ... import images as pictures
from ...decoding.decoder import Decoder
from ...decoding.request import TokenRequest
from ...errors import ConfigError
from ...guard import inference
from ...jobs import checks
from ...jobs.runs import Run
from ...models import PictureGPT, PictureTokens, VQConfig, VQModel
from ...models.tokens.kv_cache import KVCache
from ...models.tokens.picture_gpt import PictureGPTConfig
from ...tokenizer import ClipTokenizer
from ..prefix import read_prefix
from ..text_tokens import TextTokensPipeline
from ..tokens import TokenDefaults


@dataclass
class PictureGPTParts:
    """Of a loaded checkpoint."""

    transformer: PictureGPT
    vqvae: VQModel
    tokenizer: ClipTokenizer
    tokens: PictureTokens
    drafts: Tensor | None = None


class PictureGPTPipeline(TextTokensPipeline):
    """Text to pictures, token by token; see `__call__`."""

    model: PictureGPT

    def __init__(
        self, parts: PictureGPTParts, checkpoint: Any, source: str, defaults: TokenDefaults
    ):
        super().__init__(parts.transformer, checkpoint, source, defaults)
        self.parts = parts
        self.vq, self.tokenizer, self.tokens = parts.vqvae, parts.tokenizer, parts.tokens

    @property
    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels, the only size that the model draws."""
        side = self.tokens.side * self.vq.config.downscale
        return side, side

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) of a picture in tokens."""
        return self.tokens.side, self.tokens.side

    @inference
    def preview(self, tokens: Tensor) -> list[Any]:
        """PIL pictures of tokens [N, h, w] of which some, -1, are not drawn yet: grey there."""
        with self._runs.begin(Run(), self.device):
            found: list[Any] = self._preview(tokens, "pil")
            return found

    def _preview(self, tokens: Tensor, output_type: str) -> Any:
        x = pictures.from_tensor(self.vq.decode_tokens(tokens.clamp(min=0))[0], "pt")
        unknown = (tokens < 0)[:, None].to(x.device)
        for dim in (2, 3):
            unknown = unknown.repeat_interleave(self.vq.config.downscale, dim=dim)
        return pictures.from_tensor(2 * x.masked_fill(unknown, 0.85) - 1, output_type)

    def _new_decoder(self) -> Decoder:
        t, most = self.tokens, self.model.config.max_position_embeddings
        return Decoder(
            Reader(self.model, t),
            self.source,
            self.device,
            length=t.side**2,
            vocab_size=t.picture_tokens,
            limit=most,
            drafts=self.parts.drafts,
        )

    def _prefix(self, prefix: Any, r: TokenRequest) -> Tensor:
        return read_prefix(
            prefix,
            r,
            self.grid,
            self.vq.config.downscale,
            self.tokens.picture_tokens,
            lambda x: self.vq.encode_tokens(2 * x - 1).flatten(1),
        )

    def _texts(self, r: TokenRequest) -> list[list[int]]:
        """Ids for every row: each prompt's, then, with guidance, what it is compared with."""
        texts = [self._ids("prompt", p) for p in cast("list[str]", r.prompts)]
        if r.guidance_scale > 1:
            negatives = [""] * len(texts) if r.negatives is None else r.negatives
            texts += [self._ids("negative_prompt", p) for p in negatives]
        return [ids for ids in texts for _ in range(r.per_prompt)]

    def _ids(self, name: str, prompt: str) -> list[int]:
        """Ids of a prompt, from the start of a text to the begin of a picture."""
        ids = self.tokenizer.encode(prompt)
        most = self.tokens.text_length
        if len(ids) > most:
            raise checks.refuse(
                name, f"at most {most} tokens, start and end included", f"{len(ids)} tokens"
            )
        return [*(i + self.tokens.first_text_token for i in ids), self.tokens.begin_of_picture]

    def _decode(self, tokens: Tensor, output_type: str) -> Any:
        # A token that was never drawn is 0.
        decoded = self.vq.decode_tokens(tokens.clamp(min=0))[0]
        return pictures.from_tensor(self._pictures(decoded), output_type)


class Reader:
    """The transformer, whose ids are text and pictures, asked for the picture tokens only."""

    def __init__(self, model: PictureGPT, tokens: PictureTokens):
        self.model, self.tokens = model, tokens
        self.cache = model.cache

    def read_text(
        self, ids: Tensor, cache: KVCache, ends: Tensor | None = None, every: bool = False
    ) -> Tensor:
        """[N, picture_tokens]: logits of the picture token after ids [N, L], added to `cache`;
        every: [N, L, picture_tokens], after each of them; ends: see PictureGPT.next_logits.
        """
        t = self.tokens
        return self.model.next_logits(
            ids, cache, t.first_picture_token, t.picture_tokens, every, ends
        )

    def read_tokens(self, tokens: Tensor, cache: KVCache, every: bool = False) -> Tensor:
        """The same after picture tokens [N, L]."""
        return self.read_text(tokens + self.tokens.first_picture_token, cache, every=every)


def check_parts(
    transformer: PictureGPTConfig, vq: VQConfig, tokens: PictureTokens, tokenizer: ClipTokenizer
) -> None:
    """Raises ConfigError where the parts do not fit one another."""
    problems = []
    if tokens.picture_tokens != vq.num_vq_embeddings:
        problems.append(
            f"tokens: picture_tokens {tokens.picture_tokens}, but vqvae's num_vq_embeddings is"
            f" {vq.num_vq_embeddings}"
        )
    if tokens.last >= transformer.vocab_size:
        problems.append(
            f"tokens: ids up to {tokens.last}, but transformer's vocab_size is"
            f" {transformer.vocab_size}"
        )
    if tokenizer.size > tokens.text_tokens:
        problems.append(
            f"tokenizer: ids up to {tokenizer.size - 1}, but tokens' text_tokens is"
            f" {tokens.text_tokens}"
        )
    if tokens.context > transformer.max_position_embeddings:
        problems.append(
            f"tokens: text_length {tokens.text_length} and side {tokens.side} make rows of"
            f" {tokens.context}, but transformer's max_position_embeddings is"
            f" {transformer.max_position_embeddings}"
        )
    if vq.in_channels != 3 or vq.out_channels != 3:
        problems.append(f"vqvae: {vq.in_channels} and {vq.out_channels} channels, expected 3")
    if problems:
        raise ConfigError("; ".join(problems))
