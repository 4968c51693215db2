"""The decoder of models that read a text and then draw picture tokens behind it."""

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor

from .autoregressive import Drawing, Logits
from .checks import check_cache_memory
from .request import TokenRequest

#: The cache has room for a multiple of so many tokens.
ROOM = 64


class TextDecoder:
    """Rows of the cache: the pictures, then, with guidance, what they are compared with.

    model: has cache(rows, most), read_text(ids [N, L], cache) and read_tokens(tokens [N, L], cache,
    every), both to the logits [N, K] of the next picture token; [N, L, K], those after each of the
    tokens, where `every` asks for them. r.extra["texts"]: ids of every row.
    """

    def __init__(self, model: Any, r: TokenRequest, drawing: Drawing):
        texts = r.extra["texts"]
        self.model, self.drawing = model, drawing
        self.guided = len(texts) > r.count
        length = drawing.tokens.shape[1]
        # In steps, so that few prompts are so long that a CUDA graph has to be recorded for them.
        most = -(-(max(map(len, texts)) + length) // ROOM) * ROOM
        check_cache_memory(len(texts), most, model.cache(1, 1))
        self.cache = model.cache(len(texts), most)
        # Each text by itself, once: it does not depend on the others' lengths.
        first: dict[tuple, int] = {}
        logits: list[Tensor] = []
        for row, ids in enumerate(texts):
            known = first.setdefault(tuple(ids), row)
            if known != row:
                self.cache.copy_row(known, row)
                logits.append(logits[known])
                continue
            part = self.cache[row : row + 1]
            given = torch.tensor([ids], device=drawing.tokens.device)
            logits.append(model.read_text(given, part)[0])
        self.logits = torch.stack(logits)
        #: [rows]: tokens of the texts.
        self.texts = self.cache.lengths.clone()

    def start(self) -> Logits:
        known = self.drawing.tokens[:, : self.drawing.begin]
        if known.shape[1]:
            return self._read(known)
        return self._split(self.logits)

    def step(self, tokens: Tensor) -> Logits:
        return self._read(tokens[:, None])

    def _read(self, tokens: Tensor, every: bool = False) -> Logits:
        return self._split(self.model.read_tokens(self._both(tokens), self.cache, every))

    def read(self, tokens: Tensor, begins: Tensor) -> Logits:
        self.cache.lengths.copy_(self.texts + self._both(begins))
        return self._read(tokens, every=True)

    def _both(self, tokens: Tensor) -> Tensor:
        """For the pictures, and again for what they are compared with."""
        return torch.cat([tokens, tokens]) if self.guided else tokens

    def _split(self, logits: Tensor) -> Logits:
        return logits.chunk(2) if self.guided else (logits, None)

    def tensors(self) -> list[Tensor]:
        return [*self.cache.tensors(), self.texts]

    def over(self, tensors: Sequence[Tensor]) -> "TextDecoder":
        other = copy(self)
        *cache, other.texts = tensors
        other.cache = self.cache.over(cache)
        return other

    def keep(self, rows: Tensor) -> None:
        if self.guided:
            rows = torch.cat([rows, rows + len(self.texts) // 2])
        self.cache.keep(rows)
        self.texts = self.texts[rows]
