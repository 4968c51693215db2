"""MaskGIT's objective: predict the tokens that are masked, from the others and the text.

Chang et al. 2022, arXiv:2202.04200, section 3.1. With M the masked positions of a picture's tokens
y, and a share of them gamma(r) = cos(pi r / 2), r uniform in 0..1:

    loss = - mean over i in M of log p(y_i | y outside M, text)
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final

import numpy as np

from .. import captions, course, dataset, loop, parallel
from ..prompt_states import PromptStates
from ..small import Data
from .network import MaskedTransformer
from .settings import MaskedSettings

#: The shipped model whose VQ-VAE makes the tokens.
VQVAE: Final = "emoji-ar"


@lru_cache(maxsize=1)
def codes_of(data: Data) -> np.ndarray:
    """int64 [N, L]: the tokens of the run's pictures."""
    import torch

    from ...pipelines.loading import shipped_folder
    from ...pipelines.reading import Load
    from ...pipelines.shipped_vqvae import load_shipped_vqvae
    from ...weights import resolve

    checkpoint = resolve(shipped_folder(VQVAE))
    load = Load(checkpoint, VQVAE, torch.device("cpu"), torch.float32)
    model = load_shipped_vqvae(VQVAE, load)
    pictures = dataset.to_float(data.pictures.images).split(32)
    tokens = torch.cat([model.encode_tokens(part.contiguous()) for part in pictures])
    return np.asarray(tokens.flatten(1).numpy())


class Networks(course.Networks):
    """The transformer, as `training.course` trains it."""

    MEASURES = ("loss", "right")
    CPU_AUTOCAST = True

    def __init__(self, settings: MaskedSettings, data: Data, device: str, seed: int):
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = MaskedTransformer(settings).to(device).train()
        self.settings, self.device = settings, device
        self.parameters = list(self.model.parameters())

    @property
    def exported(self) -> dict[str, Any]:
        return {"transformer": self.model}

    def loss(self, ids: Any, given: Any, text: Any, pooled: Any) -> tuple[Any, ...]:
        """(cross entropy of masked tokens, share of them that is likeliest).

        ids: int64 [N, L]; given: the same with masks and errors; text, pooled: the prompts'.
        """
        from torch.nn import functional

        masked = given == self.settings.codes
        logits = self.model.predict(self.model.states(given, text, pooled)[masked]).float()
        targets = ids[masked]
        loss = functional.cross_entropy(logits, targets, label_smoothing=self.settings.smoothing)
        return loss, (logits.argmax(dim=-1) == targets).float().mean()

    def state_dict(self) -> dict[str, Any]:
        return dict(self.model.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state)


class Batches:
    """The batch of a step, a function of its number; each process has its share of it."""

    def __init__(self, data: Data, stage: str, device: str):
        self.pictures, self.codes = data.pictures, codes_of(data)
        self.texts = PromptStates(data.text)
        self.stage, self.device = stage, device
        self.settings, self.seed = data.settings, data.seed
        parallel.check_batch(self.settings.batch)

    def __call__(self, step: int) -> tuple[Any, ...]:
        """(ids, given, text, pooled) for `Networks.loss`."""
        import torch

        s: Any = self.settings
        numbers = loop.numbers(self.seed, self.stage, step)
        rows = course.shuffled_rows(self.seed, step, s.batch, len(self.pictures))
        prompts = captions.random_prompts(self.pictures, rows, s.dropped, numbers)
        ids = self.codes[rows]
        given = mask(corrupt(ids, s, numbers), s.codes, numbers)
        text, pooled = self.texts(parallel.share(prompts))
        tokens = (torch.from_numpy(parallel.share(part)).long() for part in (ids, given))
        return tuple(part.to(self.device) for part in (*tokens, text, pooled))


def corrupt(ids: np.ndarray, s: MaskedSettings, numbers: np.random.Generator) -> np.ndarray:
    """ids [N, L] with a share, 0 to twice settings.corrupted, replaced by random tokens."""
    shares = numbers.uniform(0, 2 * s.corrupted, (len(ids), 1))
    wrong = numbers.random(ids.shape) < shares
    return np.where(wrong, numbers.integers(s.codes, size=ids.shape), ids)


def mask(ids: np.ndarray, token: int, numbers: np.random.Generator) -> np.ndarray:
    """ids [N, L] with `token` at cos(pi r / 2) of each row's positions, at least one."""
    count, length = ids.shape
    shares = np.cos(np.pi / 2 * numbers.random(count))
    counts = np.maximum(1, np.ceil(shares * length))
    ranks = numbers.random(ids.shape).argsort(axis=1).argsort(axis=1)
    return np.where(ranks < counts[:, None], token, ids)
