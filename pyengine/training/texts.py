"""Features of prompts by the text encoder of a shipped model, made once before a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from . import captions, dataset, loop

BATCH = 256


def shipped_text(name: str, device: str = "cpu") -> Any:
    """The pipelines' ShippedText of a shipped model: training conditions on what sampling does."""
    import torch

    from ..pipelines.loading import shipped_folder
    from ..pipelines.reading import Load
    from ..pipelines.shipped_text import load_shipped_text
    from ..weights import resolve

    checkpoint = resolve(shipped_folder(name))
    return load_shipped_text(name, Load(checkpoint, name, torch.device(device), torch.float32))  # type: ignore[arg-type]  # checked by its reader


def encode(text: Any, prompts: Sequence[str]) -> tuple[Any, Any]:
    """(hidden states float16 [N, L, C], vectors float32 [N, C]) on the CPU; each prompt once."""
    import torch

    unique = list(dict.fromkeys(prompts))
    hidden, vectors = [], []
    for begin in range(0, len(unique), BATCH):
        states, means = text.encode(unique[begin : begin + BATCH], [])
        hidden.append(states.cpu().half())
        vectors.append(means.cpu().float())
    places = {prompt: place for place, prompt in enumerate(unique)}
    back = torch.tensor([places[prompt] for prompt in prompts])
    return torch.cat(hidden)[back], torch.cat(vectors)[back]


class Texts:
    """Several prompts of each picture, and the empty one, with their features.

    prompts: [N][variants]. hidden: float16 [N * variants + 1, L, C]; vectors: float32
    [N * variants + 1, C]; the last row is the empty prompt's.
    """

    def __init__(
        self, text: Any, pictures: dataset.Pictures, variants: int, styled: float, seed: int
    ):
        """styled: the share of the prompts that name the picture's style."""
        numbers = loop.numbers(seed, "texts", 0)
        self.variants = variants
        self.prompts = [
            [captions.random_prompt(pictures, row, numbers, styled) for _ in range(variants)]
            for row in range(len(pictures))
        ]
        flat = [prompt for row in self.prompts for prompt in row]
        self.hidden, self.vectors = encode(text, [*flat, ""])

    def places(self, rows: np.ndarray, dropped: float, numbers: np.random.Generator) -> Any:
        """int64 [B]: for each picture's row one of its prompts, or with the probability `dropped`
        the empty one.
        """
        import torch

        chosen = rows * self.variants + numbers.integers(self.variants, size=len(rows))
        empty = numbers.random(len(rows)) < dropped
        return torch.from_numpy(np.where(empty, len(self.vectors) - 1, chosen))
