"""`pyengine train one-shot`: text to all pixels at once, by regression.

The squared error has one best answer, the mean of all pictures that a prompt may mean (Bishop 2006,
Pattern Recognition and Machine Learning, 1.5.5). Here a prompt means a picture in each of three
styles, which the frozen text encoder does not tell apart: what is drawn is their blur, and noise as
a further input changes nothing, since any dependence on it only adds to the error. Families with an
objective over distributions are the way out; this one is here to show what they are for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import course
from .generator import Generator, GeneratorSettings, seeded
from .model_folder import write_json
from .small import Batch, Data, SmallRecipe
from .small_folder import write_model

STYLES = ("fluent-3d", "noto", "twemoji")


@dataclass(frozen=True)
class OneShotSettings(GeneratorSettings):
    """styled: the share of the prompts that names a style."""

    latent_channels: int = 16
    styled: float = 0.5
    variants: int = 4


class Networks(course.Networks):
    """One network: the text vector and noise to pixels."""

    MEASURES = ("loss", "l1")
    CPU_AUTOCAST = True

    def __init__(self, settings: OneShotSettings, data: Data, device: str, seed: int):
        import torch

        self.settings, self.device, self.text_width = settings, device, data.text.width
        self.generator = seeded(seed, lambda: Generator(settings, data.text.width))
        self.generator.to(device, memory_format=torch.channels_last)
        self.parameters = list(self.generator.parameters())

    @property
    def exported(self) -> dict[str, Any]:
        return {"generator": self.generator}

    def loss(self, batch: Batch) -> tuple[Any, ...]:
        """The mean squared error of all pixels."""
        noise = batch.noise(len(batch.images), self.settings.latent_channels)
        error = self.generator(batch.vectors, noise).float() - batch.images
        return error.square().mean(), error.abs().mean()

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self.generator.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.load_state_dict(state)


def write(folder: Path, networks: Networks) -> None:
    config = networks.settings.config(networks.text_width)
    write_model(folder / "generator", config, {"decoder": networks.generator})
    index = {"_class_name": "OneShotPipeline", "generator": ["pyengine", "TextGenerator"]}
    write_json(folder / "model_index.json", index)
    write_json(folder / "pyengine.json", {})


CARD = """# A small model that draws all pixels at once, by regression

Text to 64x64 pictures in one evaluation of a convolutional network that minimises the squared error
of the pixels. It is here to show what that gives: asked for a thing it draws the mean of the
pictures that the prompt may mean, here of three styles, a blur, and another seed changes next to
nothing. Nor do the words that name a style: the text encoder, `emoji`'s, has learnt one style only.
The other small models are what families of models do about it.

```python
import pyengine
pipe = pyengine.from_pretrained("emoji-one-shot")
pipe("a red heart", seed=1).images[0].save("blur.png")
```
"""


def rows(settings: OneShotSettings) -> dict[str, str]:
    return {
        "loss": "mean squared error of the pixels",
        "noise": f"{settings.latent_channels} normal numbers beside the text",
        "prompts that name no style": f"{1 - settings.styled:.0%}",
    }


RECIPE = SmallRecipe(
    name="one-shot",
    settings=OneShotSettings,
    networks=Networks,
    write=write,
    card=CARD,
    rows=rows,
    styles=STYLES,
    curves=("loss", "l1"),
)
