"""Prompts to what the U-Net attends to."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..adapters import Row
from ..diffusion.conditions import beside
from ..errors import RequestError
from ..models import CLIPTextModel, CLIPTextModelWithProjection
from ..models.text.clip import LearntRows
from ..tokenizer import ClipTokenizer
from ..weights.text import show
from .prompt_weights import Weighted, encode_weighted

Encoder = CLIPTextModel | CLIPTextModelWithProjection


def token_length(tokenizer: ClipTokenizer, encoder: Encoder) -> int:
    """Tokens per prompt, start and end included: 77 for every published checkpoint."""
    positions: int = encoder.config.max_position_embeddings
    return min(tokenizer.model_max_length, positions)


def tokenize(
    tokenizer: ClipTokenizer,
    encoder: Encoder,
    prompts: Sequence[str],
    warnings: list[str],
    length: int | None = None,
) -> Tensor:
    """[N, L] ids, padded; a prompt that is too long is cut, and `warnings` says what was.

    length: L, at most token_length (None).
    """
    most = token_length(tokenizer, encoder)
    length = most if length is None else length
    if length > most:
        raise RequestError(
            f"prompt_embeds: expected at most {most} tokens, which is what the text encoder reads,"
            f" or both prompt_embeds and negative_prompt_embeds, given {length}"
        )
    rows, cut = tokenizer(prompts, length)
    for text in dict.fromkeys(c for c in cut if c):
        message = f"the prompt was cut to {length} tokens; this was left out: {show(text, 400)}"
        if message not in warnings:
            warnings.append(message)
    return torch.tensor(rows, dtype=torch.long, device=encoder.device)


def encode(
    tokenizer: ClipTokenizer,
    encoder: Encoder,
    prompts: Sequence[str],
    layer: int | None,
    warnings: list[str],
    length: int | None = None,
    adapters: Sequence[Row] = (),
    weighted: Weighted | None = None,
    norm: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """([N, L, C] hidden states, [N, P] pooled text where the encoder projects it, else None).

    layer: None for the last hidden state; else this index into hidden_states, the last being -1.
    length: L, where it is not the encoder's own.
    adapters: what the encoder has beside its weights for each prompt; () for nothing. weighted: how
    words are weighed; L is then of the longest prompt. norm: what hidden states of `layer` go
    through, before that.
    Equal prompts with equal adapters are encoded once.
    """
    if weighted is not None:
        most = token_length(tokenizer, encoder)

        def read(out: Any) -> Tensor:
            states = out.last_hidden_state if layer is None else out.hidden_states[layer]
            return states if norm is None else norm(states)

        return encode_weighted(
            tokenizer,
            encoder,
            prompts,
            weighted,
            most,
            read,
            adapters,
            learnt=learnt_rows(tokenizer, encoder),
        )
    rows = [tuple(row) for row in adapters] or [()] * len(prompts)
    keys = list(zip(rows, prompts, strict=True))
    # Rows of one adapter side by side.
    unique = [key for row in dict.fromkeys(rows) for key in dict.fromkeys(keys) if key[0] == row]
    ids = tokenize(tokenizer, encoder, [prompt for _, prompt in unique], warnings, length)
    with beside([row for row, _ in unique]):
        out = encoder(
            ids, output_hidden_states=layer is not None, learnt=learnt_rows(tokenizer, encoder)
        )
    hidden = out.last_hidden_state if layer is None else out.hidden_states[layer]
    if norm is not None:
        with beside([row for row, _ in unique]):
            hidden = norm(hidden)
    back = torch.tensor([unique.index(key) for key in keys], device=hidden.device)
    pooled = getattr(out, "text_embeds", None)
    return hidden.index_select(0, back), None if pooled is None else pooled[back]


def learnt_rows(tokenizer: ClipTokenizer, encoder: Encoder) -> LearntRows | None:
    """The vectors of the tokenizer's learnt tokens, as the encoder takes them; None for none."""
    if not tokenizer.learnt:
        return None
    rows = torch.cat([token.vectors for token in tokenizer.learnt.values()])
    return LearntRows(tokenizer.size, rows.to(encoder.device, encoder.dtype))


def token_mask(tokenizer: ClipTokenizer, texts: Sequence[str], length: int) -> Tensor:
    """[N, length] float32: 1 for a text's tokens, start and end included, 0 behind its end."""
    seen = torch.zeros(len(texts), length)
    for row, text in zip(seen, texts, strict=True):
        row[: len(tokenizer.encode(text))] = 1
    return seen


def guidance_embedding(guidance_scale: float, width: int) -> Tensor:
    """[1, width] float32: a guidance scale as distilled models are told it.

    Sines and cosines of 1000 (guidance_scale - 1): Luo et al. 2023, arXiv:2310.04378. Each
    operation is rounded as in training; the angles go up to 10,000 and would show it.
    """
    w = torch.tensor([guidance_scale - 1], dtype=torch.float32) * 1000.0
    half = width // 2
    step = torch.log(torch.tensor(10000.0)) / (half - 1)
    angles = w[:, None] * torch.exp(torch.arange(half, dtype=torch.float32) * -step)[None]
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.nn.functional.pad(waves, (0, width % 2))
