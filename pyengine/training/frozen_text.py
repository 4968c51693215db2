"""Texts as the frozen text encoder of the shipped `emoji` reads them, each prompt once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import tokenizer


def pooled_texts(folder: Path) -> Callable[[list[str]], Any]:
    """A function from prompts to float32 [N, width]: the hidden state at each text's end token,
    after the encoder's last norm. It remembers what it has read.

    folder: of a model with text_encoder/ and tokenizer/.
    """
    import torch
    from transformers import CLIPTextModel

    encoder: Any = CLIPTextModel.from_pretrained(folder / "text_encoder").eval()
    tokens, known = tokenizer.load(folder / "tokenizer"), {}

    def pooled_of(prompts: list[str]) -> Any:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
        if new:
            ids = tokenizer.encode(tokens, new)
            ends = (ids == tokens.eos_token_id).int().argmax(dim=1)
            with torch.no_grad():
                hidden = encoder(ids).last_hidden_state
            known.update(zip(new, hidden[torch.arange(len(new)), ends].float(), strict=True))
        return torch.stack([known[prompt] for prompt in prompts])

    return pooled_of
