"""The objective of autoregressive models: the likelihood of each pixel after those before it.

van den Oord et al. 2016, arXiv:1601.06759; Chen et al. 2020, "Generative Pretraining from Pixels".
With x the colours of a picture's pixels in reading order:

    loss = - mean over i of log p(x_i | x_0 ... x_(i-1), text)
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from .. import captions, course, loop, parallel
from ..prompt_states import PromptStates
from ..small import Data
from . import palette
from .network import PixelGPT
from .settings import PixelSettings

STAGE = "pixels"


@lru_cache(maxsize=1)
def colours_of(data: Data) -> tuple[np.ndarray, np.ndarray]:
    """(the palette of the run's pictures, uint8 [colours, 3]; their pixels, int64 [N, L])."""
    settings: Any = data.settings
    small = palette.shrink(data.pictures.images, settings.side)
    found = palette.learn(small, settings.colours, loop.numbers(data.seed, STAGE, 0))
    return found, palette.quantise(small, found)


class Networks(course.Networks):
    """The transformer, as `training.course` trains it."""

    MEASURES = ("loss", "right")
    CPU_AUTOCAST = True

    def __init__(self, settings: PixelSettings, data: Data, device: str, seed: int):
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = PixelGPT(settings).to(device).train()
        self.settings, self.device, self.palette = settings, device, colours_of(data)[0]
        self.parameters = list(self.model.parameters())

    @property
    def exported(self) -> dict[str, Any]:
        return {"transformer": self.model}

    def loss(self, pixels: Any, given: Any, text: Any) -> tuple[Any, ...]:
        """(nats a pixel, share of pixels whose colour is likeliest).

        pixels: int64 [N, L]; given: [N, L - 1], the same with errors; text: the prompts'.
        """
        from torch.nn import functional

        logits = self.model(given, text).float()
        loss = functional.cross_entropy(logits.flatten(0, 1), pixels.flatten())
        return loss, (logits.argmax(dim=-1) == pixels).float().mean()

    def state_dict(self) -> dict[str, Any]:
        return dict(self.model.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state)


class Batches:
    """The batch of a step, a function of its number; each process has its share of it."""

    def __init__(self, data: Data, stage: str, device: str):
        self.pictures, self.codes = data.pictures, colours_of(data)[1]
        self.texts = PromptStates(data.text)
        self.stage, self.device = stage, device
        self.settings, self.seed = data.settings, data.seed
        parallel.check_batch(self.settings.batch)

    def __call__(self, step: int) -> tuple[Any, ...]:
        """(pixels, given, text) for `Networks.loss`."""
        import torch

        s: Any = self.settings
        numbers = loop.numbers(self.seed, self.stage, step)
        rows = course.shuffled_rows(self.seed, step, s.batch, len(self.pictures))
        prompts = captions.random_prompts(self.pictures, rows, s.dropped, numbers)
        pixels = self.codes[rows]
        given = corrupt(pixels, s.corrupted, numbers)[:, :-1]
        text, _ = self.texts(parallel.share(prompts))
        tokens = (torch.from_numpy(parallel.share(part)).long() for part in (pixels, given))
        return tuple(part.to(self.device) for part in (*tokens, text))


def corrupt(pixels: np.ndarray, share: float, numbers: np.random.Generator) -> np.ndarray:
    """pixels [N, L] with 0 to twice the share of them replaced by others of the same picture."""
    shares = numbers.uniform(0, 2 * share, (len(pixels), 1))
    wrong = numbers.random(pixels.shape) < shares
    others = numbers.integers(pixels.shape[1], size=pixels.shape)
    return np.where(wrong, np.take_along_axis(pixels, others, axis=1), pixels)
