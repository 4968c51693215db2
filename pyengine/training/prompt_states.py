"""Hidden states of prompts that are made anew in every step, each encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class PromptStates:
    """From prompts to (hidden states [N, L, C], that of the end token [N, C]), on the CPU.

    text: pyengine.pipelines.shipped_text.ShippedText.
    """

    def __init__(self, text: Any):
        self.text = text
        self._known: dict[str, tuple[Any, Any]] = {}

    def __call__(self, prompts: Sequence[str]) -> tuple[Any, Any]:
        import torch

        from ..pipelines.text import tokenize

        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if new:
            ids = tokenize(self.text.tokenizer, self.text.encoder, new, [])
            out = self.text.encoder(ids)
            for i, prompt in enumerate(new):
                states = out.last_hidden_state[i], out.pooler_output[i]
                self._known[prompt] = states[0].clone(), states[1].clone()
        hidden, pooled = zip(*(self._known[prompt] for prompt in prompts), strict=True)
        return torch.stack(hidden), torch.stack(pooled)
