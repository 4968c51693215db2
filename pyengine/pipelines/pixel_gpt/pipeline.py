"""Text to picture with a transformer over pixels in a palette's colours: emoji-pixels.

van den Oord et al. 2016, arXiv:1601.06759 (PixelRNN); Chen et al. 2020, "Generative Pretraining
from Pixels" (palettes).
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ... import images as pictures
from ... import ops
from ...decoding.call import TokenCall
from ...decoding.decoder import Decoder
from ...decoding.request import TokenRequest
from ...jobs.output import Report
from ...models import CLIPTextModel, PixelGPT
from ...models.tokens.kv_cache import KVCache
from ...models.tokens.pixel_gpt import ENLARGED
from ...tokenizer import ClipTokenizer
from ..prefix import read_prefix
from ..text import tokenize
from ..text_tokens import TextTokensPipeline
from ..tokens import TokenDefaults


@dataclass(frozen=True)
class PixelGPTParts:
    """A checkpoint's transformer, and the text encoder of the shipped model that it names."""

    transformer: PixelGPT
    text_encoder: CLIPTextModel
    tokenizer: ClipTokenizer


class PixelGPTPipeline(TextTokensPipeline):
    """Text to pictures, pixel by pixel; see `__call__`, where a token is a pixel's colour, as a
    number of the palette.
    """

    model: PixelGPT

    def __init__(self, parts: PixelGPTParts, checkpoint: Any, source: str, defaults: TokenDefaults):
        super().__init__(parts.transformer, checkpoint, source, defaults)
        self.parts = parts
        colours = torch.tensor(self.model.config.palette, dtype=torch.float32, device=self.device)
        #: [vocab_size, 3] in -1..1.
        self.palette = colours / 127.5 - 1

    @property
    def default_size(self) -> tuple[int, int]:
        """(height, width) of a picture, the only size that the model draws."""
        side = self.model.config.sample_size * ENLARGED
        return side, side

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) of a picture in pixels that are drawn."""
        side = self.model.config.sample_size
        return side, side

    def _new_decoder(self) -> Decoder:
        c = self.model.config
        return Decoder(
            _Reader(self.parts),
            self.source,
            self.device,
            length=c.sample_size**2,
            vocab_size=c.vocab_size,
            limit=c.max_position_embeddings,
        )

    def _prefix(self, prefix: Any, r: TokenRequest) -> Tensor:
        colours = self.model.config.vocab_size
        return read_prefix(prefix, r, self.grid, ENLARGED, colours, self.quantise)

    def quantise(self, x: Tensor) -> Tensor:
        """[N, h * w] int64: the nearest colours of x [N, 3, 4 h, 4 w] in 0..1, averaged over each
        pixel that the model draws.
        """
        means = torch.nn.functional.avg_pool2d(x.to(self.device), ENLARGED)
        pixels = 2 * means.permute(0, 2, 3, 1).flatten(1, 2) - 1
        return ops.vq_argmin(pixels, self.palette)

    def _texts(self, r: TokenRequest) -> list[list[int]]:
        """Ids of every row: each prompt's, then, with guidance, of what it is compared with; all
        filled up to the length that the text encoder reads.
        """
        return [row for row in self._ids(r, []) for _ in range(r.per_prompt)]

    def _ids(self, r: TokenRequest, warned: list[str]) -> list[list[int]]:
        """The ids of prompts and negative prompts; `warned` gets what was cut from them."""
        texts = list(cast("list[str]", r.prompts))
        if r.guidance_scale > 1:
            texts += [""] * len(texts) if r.negatives is None else r.negatives
        ids = tokenize(self.parts.tokenizer, self.parts.text_encoder, texts, warned)
        return cast("list[list[int]]", ids.tolist())

    def _begin(self, r: TokenRequest, report: Report) -> TokenCall:
        self._ids(r, report.warnings)
        return super()._begin(r, report)

    def _preview(self, tokens: Tensor, output_type: str) -> Any:
        return self._decode(tokens, output_type)

    def _decode(self, tokens: Tensor, output_type: str) -> Any:
        colours = ops.vq_decode(tokens.clamp(min=0), self.palette)
        # Pixels that are not drawn yet are light grey.
        colours = colours.masked_fill((tokens < 0)[..., None], 0.7)
        for dim in (1, 2):
            colours = colours.repeat_interleave(ENLARGED, dim=dim)
        return pictures.from_tensor(self._pictures(colours.permute(0, 3, 1, 2)), output_type)


class _Reader:
    """Texts by way of the text encoder, and pixels, into the transformer."""

    def __init__(self, parts: PixelGPTParts):
        self.model, self.encoder = parts.transformer, parts.text_encoder
        self.cache = self.model.cache

    def read_text(self, ids: Tensor, cache: KVCache, ends: Tensor | None = None) -> Tensor:
        """[N, vocab_size] of the first pixel after texts [N, text_length], all of full length."""
        return self.model.read_text(self.encoder(ids).last_hidden_state, cache)

    def read_tokens(self, tokens: Tensor, cache: KVCache, every: bool = False) -> Tensor:
        return self.model.read_pixels(tokens, cache, every)
