"""`pyengine train clip`: a small contrastive encoder of pictures and texts.

Radford et al. 2021, arXiv:2103.00020. The tower for pictures is new; texts are read by the frozen
text encoder of the shipped `emoji`, behind which a projection is learnt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import captions, dataset, loop
from .course import Networks
from .pixel_diffusion import half_precision


@dataclass(frozen=True)
class ClipSettings(loop.Settings):
    """Shape of the tower and course of its training. shift: pixels that a picture may be moved by,
    each way.
    """

    SHAPE = ("size", "patch", "width", "layers", "heads", "inner", "projection", "text_width")

    size: int = 64
    patch: int = 16
    width: int = 128
    layers: int = 4
    heads: int = 4
    inner: int = 384
    projection: int = 128
    text_width: int = 128
    batch: int = 256
    rate: float = 1e-3
    warmup: int = 50
    decay: float = 0.98
    shift: int = 3


def build_tower(settings: ClipSettings) -> Any:
    """A CLIPVisionModelWithProjection."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=settings.width, intermediate_size=settings.inner,
        projection_dim=settings.projection, num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads, image_size=settings.size, patch_size=settings.patch,
        hidden_act="quick_gelu",
    )  # fmt: skip
    config._attn_implementation = "eager"
    return CLIPVisionModelWithProjection(config)


class ClipNetworks(Networks):
    """The tower, the projection of texts and the temperature."""

    MEASURES = ("loss", "found")

    def __init__(self, settings: ClipSettings, device: str, seed: int):
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tower = build_tower(settings)
            projection = torch.nn.Linear(settings.text_width, settings.projection, bias=False)
        self.settings, self.device = settings, device
        self.tower, self.projection = tower.to(device).train(), projection.to(device)
        self.scale = torch.nn.Parameter(torch.tensor(float(np.log(1 / 0.07)), device=device))
        self.parameters = [*self.tower.parameters(), *self.projection.parameters(), self.scale]

    def loss(self, images: Any, texts: Any) -> tuple[Any, ...]:
        """Cross entropy of each picture's text among the batch's texts, and of each text's picture
        among its pictures, by the cosine times a learnt scale (at most 100).

        images: [N, 3, H, W], normalised; texts: [N, text_width], pooled. found: the share of
        pictures whose own text is the nearest.
        """
        import torch
        from torch.nn.functional import cross_entropy, normalize

        with half_precision(self.device):
            embedded = self.tower(images).image_embeds
        pictures = normalize(embedded.float(), dim=1)
        words = normalize(self.projection(texts).float(), dim=1)
        logits = self.scale.exp().clamp(max=100.0) * pictures @ words.T
        own = torch.arange(len(logits), device=logits.device)
        loss = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
        return loss, (logits.argmax(dim=1) == own).float().mean()

    def state_dict(self) -> dict[str, Any]:
        parts = {"tower": self.tower, "projection": self.projection}
        states = {name: part.state_dict() for name, part in parts.items()}
        return states | {"scale": self.scale.detach()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        import torch

        self.tower.load_state_dict(state["tower"])
        self.projection.load_state_dict(state["projection"])
        with torch.no_grad():
            self.scale.copy_(state["scale"])


class ClipBatches:
    """The batch of a step, a function of its number: as many labels, each in one of its styles.

    pooled_of: texts to pooled features [N, text_width].
    """

    def __init__(
        self, pictures: dataset.Pictures, pooled_of: Any, settings: ClipSettings, seed: int,
        device: str,
    ):  # fmt: skip
        self.pictures, self.pooled_of, self.settings = pictures, pooled_of, settings
        self.seed, self.device = seed, device
        labels: dict[str, list[int]] = {}
        for row, label in enumerate(pictures.labels):
            labels.setdefault(label, []).append(row)
        self.by_label = list(labels.values())

    def __call__(self, step: int) -> tuple[Any, ...]:
        numbers = loop.numbers(self.seed, "clip", step)
        count = min(self.settings.batch, len(self.by_label))
        # No label twice: its two pictures would each be called wrong for the other's text.
        chosen = numbers.permutation(len(self.by_label))[:count]
        rows = np.array([numbers.choice(self.by_label[label]) for label in chosen])
        prompts = captions.random_prompts(self.pictures, rows, 0.0, numbers)
        images = moved(self.pictures.images[rows], self.settings.shift, numbers)
        texts = self.pooled_of(prompts)
        return normalised(images).to(self.device), texts.to(self.device)


def moved(images: np.ndarray, most: int, numbers: np.random.Generator) -> np.ndarray:
    """Pictures [N, H, W, 3], each moved by up to `most` pixels on white."""
    if not most:
        return images
    height, width = images.shape[1:3]
    wide = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), constant_values=255)
    corners = numbers.integers(0, 2 * most + 1, (len(images), 2))
    return np.stack([
        one[top : top + height, left : left + width]
        for one, (top, left) in zip(wide, corners, strict=True)
    ])  # fmt: skip


def normalised(images: np.ndarray) -> Any:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] by CLIP's mean and deviation of the colours."""
    import torch

    from ..clip_pictures import MEAN, STD

    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return ((dataset.to_float(images) + 1) / 2 - mean) / std
