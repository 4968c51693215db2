"""The frame of the small models, one of each family: `pyengine train vae`, `flow`, `gan` and so on.

A recipe's module has its settings, its Networks with the loss, and a SmallRecipe that names them.
The frame has what they share: pictures and the cached features of their prompts, the training
(resumed where it stopped, the rate descending to zero at its end), and the model folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from . import course, dataset, loop, recipe
from .concepts import CONCEPTS
from .texts import Texts, shipped_text
from .vq_autoencoder import vary

#: The shipped model whose text encoder conditions all of them.
TEXT_ENCODER = "emoji"


@dataclass(frozen=True)
class SmallSettings(loop.Settings):
    """What the settings of all small models have.

    size: pixels a side. steps: of the whole training, the rate descending to zero over the last
    `cooldown`. variants: prompts of each picture; styled: the share of them that names the style;
    dropped: the share of empty ones in a batch. varied: whether half of the pictures are mirrored
    and all moved by up to `shift` pixels.
    """

    size: int = 64
    batch: int = 32
    rate: float = 1.5e-3
    warmup: int = 100
    decay: float = 0.998
    weight_decay: float = 0.01
    steps: int = 2500
    cooldown: int = 800
    variants: int = 16
    styled: float = 0.65
    dropped: float = 0.0
    varied: bool = False
    shift: int = 0


@dataclass(frozen=True)
class RunSettings:
    """All settings of a run. model: of the recipe's own dataclass."""

    model: Any
    labels: tuple[str, ...] = CONCEPTS
    styles: tuple[str, ...] = ("fluent-3d",)
    seed: int = 1


class Data:
    """The pictures of a run, and the features of their prompts. labels: all of the run's, in the
    order of concepts.txt.
    """

    def __init__(
        self,
        pictures: dataset.Pictures,
        settings: SmallSettings,
        seed: int,
        labels: Sequence[str] = (),
    ):
        self.pictures, self.settings, self.seed = pictures, settings, seed
        self.labels = tuple(labels) or tuple(dict.fromkeys(pictures.labels))

    @cached_property
    def text(self) -> Any:
        """The text encoder: pyengine.pipelines.shipped_text.ShippedText."""
        return shipped_text(TEXT_ENCODER)

    @cached_property
    def texts(self) -> Texts:
        settings = self.settings
        return Texts(self.text, self.pictures, settings.variants, settings.styled, self.seed)


@dataclass(frozen=True)
class Batch:
    """images: float32 [B, 3, H, W] in -1..1, channels last. vectors: float32 [B, C], the mean of
    the text encoder's hidden states. hidden: these, float32 [B, L, C]. rows: int64 [B], which
    pictures. generator: for the step's noise, on the CPU for every device.
    """

    images: Any
    vectors: Any
    hidden: Any
    rows: Any
    generator: Any

    def noise(self, *shape: int) -> Any:
        """Standard normal float32, on the pictures' device."""
        import torch

        return torch.randn(shape, generator=self.generator).to(self.images.device)


class Batches:
    """The batch of a step, a function of its number. stage: of the random numbers."""

    def __init__(self, data: Data, stage: str, device: str):
        self.data, self.stage, self.device = data, stage, device
        self.settings, self.seed = data.settings, data.seed

    def __call__(self, step: int) -> tuple[Batch]:
        import torch

        settings, texts = self.settings, self.data.texts
        rows = course.shuffled_rows(self.seed, step, settings.batch, len(self.data.pictures))
        numbers = loop.numbers(self.seed, self.stage, step)
        images = self.data.pictures.images[rows]
        if settings.varied:
            images = vary(images, settings.shift, numbers)
        places = texts.places(rows, settings.dropped, numbers)
        images = dataset.to_float(images).contiguous(memory_format=torch.channels_last)
        batch = Batch(
            images.to(self.device),
            texts.vectors[places].to(self.device),
            texts.hidden[places].float().to(self.device),
            torch.from_numpy(rows).to(self.device),
            loop.torch_numbers(self.seed, self.stage, step),
        )
        return (batch,)


@dataclass(frozen=True)
class SmallRecipe:
    """One small model.

    name: of `pyengine train`, of its random numbers (loop.STAGES), and after "emoji-" the model's.
    settings: its dataclass, a SmallSettings. networks: (settings, data, device, seed) -> Networks.
    write: (folder, networks) writes model_index.json and the parts, in float16. card: the card's
    beginning: title, what it is, how it is called. rows: (settings) -> the rows of the card's table
    that only this model has. styles: those it is trained on unless told. curves: the measures that
    are drawn. batches: as Batches. draws: whether it makes pictures from prompts. borrows: what of
    `emoji` it works with, of card.BORROWED.
    """

    name: str
    settings: type[SmallSettings]
    networks: Callable[[Any, Data, str, int], course.Networks]
    write: Callable[[Path, Any], None]
    card: str
    rows: Callable[[Any], dict[str, str]] = lambda settings: {}
    styles: tuple[str, ...] = ("fluent-3d",)
    curves: tuple[str, ...] = ("loss",)
    batches: Callable[[Data, str, str], Any] = Batches
    draws: bool = True
    borrows: str = "text encoder"

    @property
    def kind(self) -> recipe.Recipe:
        """What the frame of all recipes is told."""
        return recipe.Recipe(
            settings=RunSettings,
            parts={"model": self.settings},
            coder="model",
            generator="model",
            out=f"{self.name}-run",
            cooldown="cooldown",
            cool_steps=0,
            load=lambda opened, device: self.load(opened, device),
        )

    def load(self, opened: recipe.Opened, device: str) -> tuple[course.Run, Any]:
        """The run of a folder, or a new one, and its batches."""
        settings = opened.settings
        data = Data(opened.chosen, settings.model, settings.seed, settings.labels)
        networks = self.networks(settings.model, data, device, settings.seed)
        checkpoint = opened.folder / opened.recipe.checkpoint
        run = course.resume(checkpoint, networks, settings.model.weight_decay)
        return run, self.batches(data, self.name, device)
