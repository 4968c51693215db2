"""Training the VQ-VAE's decoder further, with encoder and codebook fixed.

The transformer's tokens stay valid, and the decoder is fitted to the transformer's pictures, where
the VQ-VAE was trained on every picture of the data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from . import coder, course, dataset, loop, parallel
from .vq_autoencoder import DECODER, VQSettings, error_terms

STAGE = "vq-decoder"


class Networks(course.Networks):
    """The decoder, as :mod:`.course` trains it; the rest of the model stays as it is."""

    MEASURES = ("total", "l1", "l2", "colour", "edges")

    def __init__(self, model: Any, settings: VQSettings, device: str):
        self.model, self.settings, self.device = model.train(), settings, device
        self.part = coder.decoder_of(model)
        self.parameters = list(self.part.parameters())

    def loss(self, latents: Any, images: Any) -> tuple[Any, ...]:
        """(the weighted sum, l1, l2, colour, edges) of what is drawn of latents [N, C, h, w]."""
        terms = error_terms(self.model.decode(latents, force_not_quantize=True).sample - images)
        return coder.total(terms, self.settings), *terms.values()

    def state_dict(self) -> dict[str, Any]:
        return dict(self.part.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.part.load_state_dict(state)


class Batches:
    """The batch of a step, a function of its number; each process has its share of it.

    images: uint8 [N, H, W, 3]; tokens: int [N, h, w]; entries: the codebook.
    """

    def __init__(
        self,
        images: np.ndarray,
        tokens: np.ndarray,
        entries: Any,
        settings: VQSettings,
        seed: int,
        device: str,
    ):
        self.images, self.tokens, self.entries = images, tokens, entries
        self.settings, self.seed, self.device = settings, seed, device
        parallel.check_batch(settings.batch)

    def __call__(self, step: int) -> tuple[Any, Any]:
        """(latents [N, C, h, w], images [N, 3, H, W] in [-1, 1]) for `Networks.loss`."""
        import torch

        rows = course.shuffled_rows(self.seed, step, self.settings.batch, len(self.images))
        rows = parallel.share(rows)
        tokens = torch.from_numpy(self.tokens[rows].astype(np.int64)).to(self.device)
        latents = self.entries[tokens].permute(0, 3, 1, 2).contiguous()
        return latents, dataset.to_float(self.images[rows]).to(self.device)


def train(model: Any, batches: Batches, folder: Path, steps: int, log: loop.Log) -> Path:
    """`steps` more of them, the rate descending to zero over the last half, into decoder.pt."""
    path = folder / DECODER
    run = course.resume(path, Networks(model, batches.settings, batches.device), coder.WEIGHT_DECAY)
    course.train(run, batches, run.step + steps, cooldown=steps // 2, checkpoint=path, log=log)
    return path
