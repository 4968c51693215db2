"""One transformer over a caption's tokens and then a picture's, in transformers' Llama layout.

Ramesh et al. 2021, arXiv:2102.12092.  A row is: caption (start, words, end), begin
of picture, the picture's tokens in reading order.  Rows are filled up behind
the picture, where nothing looks back at the filling.  One caption in ten is empty,
for guidance.  The loss of a picture token is over picture tokens only, that of a text token
over text tokens, with a small weight.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import captions, dataset, loop, parallel
from .course import Networks as Trained
from .course import Run, resume, shuffled_rows

STAGE = "gpt"


@dataclass(frozen=True)
class GPTSettings(loop.Settings):
    """Shape of the transformer and course of its training.

    vocabulary, length: of the text, start and end included.  codes, side: of a picture.
    views: versions of each picture in the training set (mirrored, moved by up to `shift` pixels).
    corrupted: mean share of a picture's input tokens that are replaced by random ones, so that the
    transformer depends on all of them: when it samples, its input differs from training pictures.
    """

    SHAPE = (
        "hidden", "intermediate", "layers", "heads", "vocabulary", "length", "codes", "side",
    )  # fmt: skip

    hidden: int = 256
    intermediate: int = 704
    layers: int = 6
    heads: int = 4
    vocabulary: int = 3072
    length: int = 24
    codes: int = 1024
    side: int = 8
    views: int = 2
    shift: int = 2
    batch: int = 16
    rate: float = 1.5e-3
    warmup: int = 100
    decay: float = 0.998
    dropped: float = 0.1
    corrupted: float = 0.15
    text: float = 0.1
    weight_decay: float = 0.05

    @property
    def first_text(self) -> int:
        """The id of the text's token 0; a picture's tokens are 0 to codes - 1."""
        return self.codes

    @property
    def begin_of_picture(self) -> int:
        return self.codes + self.vocabulary

    @property
    def padding(self) -> int:
        return self.codes + self.vocabulary + 1

    @property
    def context(self) -> int:
        """The longest row."""
        return self.length + 1 + self.side**2

    def tokens(self) -> dict[str, Any]:
        """tokens/config.json of an exported model."""
        return {
            "_class_name": "PictureTokens",
            "picture_tokens": self.codes,
            "first_picture_token": 0,
            "text_tokens": self.vocabulary,
            "first_text_token": self.first_text,
            "begin_of_picture": self.begin_of_picture,
            "padding": self.padding,
            "text_length": self.length,
            "side": self.side,
        }


def build(settings: GPTSettings) -> Any:
    """A LlamaForCausalLM."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=settings.padding + 1,
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=settings.padding,
        rms_norm_eps=1e-6,
        use_cache=False,
    )
    return LlamaForCausalLM(config)


class Networks(Trained):
    """The transformer, as :mod:`.course` trains it."""

    MEASURES = ("loss", "picture", "text")

    def __init__(self, settings: GPTSettings, device: str, seed: int):
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = build(settings).to(device).train()
        self.settings, self.device = settings, device
        self.parameters = list(self.model.parameters())

    def loss(self, ids: Any, lengths: Any, given: Any) -> tuple[Any, ...]:
        """(weighted loss, its picture part, its text part), nats per token.

        ids: int64 [N, L], the targets; lengths: [N] of the text before the begin of the picture;
        given: the input ids.
        """
        import torch
        from torch.nn import functional

        s, pixels = self.settings, self.settings.side**2
        hidden = self.model.model(input_ids=given[:, :-1]).last_hidden_state
        head, rows = self.model.lm_head.weight, torch.arange(len(ids), device=ids.device)[:, None]
        positions = lengths[:, None] + torch.arange(pixels, device=ids.device)
        logits = hidden[rows, positions] @ head[: s.codes].T
        picture = functional.cross_entropy(
            logits.flatten(0, 1).float(), ids[rows, positions + 1].flatten()
        )
        # Positions before `lengths - 1` predict text; that of the last text token is skipped.
        texts = torch.arange(ids.shape[1] - 1, device=ids.device) < lengths[:, None] - 1
        targets = ids[:, 1:][texts] - s.first_text
        logits = hidden[texts] @ head[s.first_text : s.begin_of_picture].T
        text = functional.cross_entropy(logits.float(), targets)
        return picture + s.text * text, picture, text

    def state_dict(self) -> dict[str, Any]:
        return dict(self.model.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state)


class Batches:
    """The batch of a step, a function of its number; each process has its share of it.

    codes: int [N, views, h, w], the pictures' tokens.
    """

    def __init__(
        self,
        pictures: dataset.Pictures,
        codes: np.ndarray,
        tokens_of: Callable[[str], list[int]],
        settings: GPTSettings,
        seed: int,
        device: str,
    ):
        self.pictures, self.codes, self.tokens_of = pictures, codes, tokens_of
        self.settings, self.seed, self.device = settings, seed, device
        parallel.check_batch(settings.batch)

    def __call__(self, step: int) -> tuple[Any, ...]:
        """(ids [N, L], lengths [N], given [N, L]) for `Networks.loss`."""
        import torch

        s, numbers = self.settings, loop.numbers(self.seed, STAGE, step)
        rows = shuffled_rows(self.seed, step, s.batch, len(self.pictures))
        prompts = captions.random_prompts(self.pictures, rows, s.dropped, numbers)
        views = numbers.integers(self.codes.shape[1], size=len(rows))
        other = numbers.integers(s.codes, size=(len(rows), s.side**2))
        shares = numbers.uniform(0, 2 * s.corrupted, (len(rows), 1))
        wrong = numbers.random(other.shape) < shares
        rows, views, prompts, other, wrong = (
            parallel.share(part) for part in (rows, views, prompts, other, wrong)
        )
        texts = [self.tokens_of(prompt) for prompt in prompts]
        lengths = np.array([len(text) for text in texts])
        ids = np.full((len(rows), lengths.max() + 1 + s.side**2), s.padding)
        given = ids.copy()
        for i, text in enumerate(texts):
            line, codes = ids[i], self.codes[rows[i], views[i]].flatten()
            line[: len(text)] = text
            line[: len(text)] += s.first_text
            line[len(text)] = s.begin_of_picture
            picture = slice(len(text) + 1, len(text) + 1 + s.side**2)
            line[picture] = codes
            given[i] = line
            given[i, picture] = np.where(wrong[i], other[i], codes)
        return tuple(torch.from_numpy(part).to(self.device) for part in (ids, lengths, given))


def start(path: Path, settings: GPTSettings, seed: int, device: str) -> Run:
    """A run from its checkpoint, or from random weights."""
    return resume(path, Networks(settings, device, seed), settings.weight_decay)


def text_cache(tokens: Any, length: int) -> Callable[[str], list[int]]:
    """A function from a prompt to its tokens (start, words, end), cut to `length`; it remembers."""

    @functools.cache
    def tokens_of(prompt: str) -> list[int]:
        return list(tokens(prompt, truncation=True, max_length=length).input_ids)

    return tokens_of
