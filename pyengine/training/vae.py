"""`pyengine train vae`: a conditional variational autoencoder.

An encoder q(z | x, c) tells of a picture x what the text c does not say; a decoder p(x | z, c)
draws it; pictures are made by drawing z from N(0, 1). Both are trained on the bound of Kingma &
Welling 2014, arXiv:1312.6114, conditional as in Sohn et al. 2015 (Learning Structured Output
Representation using Deep Conditional Generative Models).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from . import course
from .generator import (
    FIRST_SIDE,
    Block,
    Condition,
    Generator,
    GeneratorSettings,
    Modulated,
    seeded,
)
from .model_folder import write_json
from .one_shot import STYLES
from .small import Batch, Data, SmallRecipe
from .small_folder import write_model


@dataclass(frozen=True)
class VAESettings(GeneratorSettings):
    """encoder: channels of each size, from the patches' down to 4x4; told: width of what
    the encoder's blocks are told. beta: weight of the KL divergence; free_bits: nats of each number
    of z that cost nothing. beta is large so that z tells what the text does not, the style, and no
    more: at 10 it told some 12 nats, the thing itself among them, and a z that is drawn then drew
    another thing than the text says. Half of the prompts name no style.
    """

    SHAPE = (*GeneratorSettings.SHAPE, "encoder", "told")

    channels: tuple[int, ...] = (80, 80, 80)
    condition: int = 96
    latent_channels: int = 16
    encoder: tuple[int, ...] = (64, 64, 64)
    told: int = 64
    beta: float = 100.0
    free_bits: float = 0.1
    styled: float = 0.5
    variants: int = 4
    steps: int = 2200

    def config(self, text_width: int) -> dict[str, Any]:
        """config.json of the engine's ConditionalVAE."""
        more = {"encoder_channels": list(self.encoder), "encoder_condition": self.told}
        return super().config(text_width) | more | {"_class_name": "ConditionalVAE"}


class Encoder(nn.Module):
    """(text vectors [N, C], pictures [N, 3, H, W]) -> (mean, log variance) of z, [N, Z] each."""

    def __init__(self, settings: VAESettings, text_width: int):
        super().__init__()
        channels, width, self.patch = settings.encoder, settings.told, settings.patch
        self.condition = Condition(text_width, width)
        self.conv_in = nn.Conv2d(3 * settings.patch**2, channels[0], 3, padding=1)
        pairs = zip(channels, channels[1:], strict=False)  # noqa: RUF007 - as of the decoder
        self.blocks = nn.ModuleList(Block(a, b, width, "down") for a, b in pairs)
        self.norm_out = Modulated(width, channels[-1])
        self.last = nn.Linear(FIRST_SIDE**2 * channels[-1], 2 * settings.latent_channels)

    def forward(self, text: Any, images: Any) -> tuple[Any, Any]:
        condition = self.condition(text)
        x = self.conv_in(functional.pixel_unshuffle(images, self.patch))
        for block in self.blocks:
            x = block(x, condition)
        x = self.norm_out(x, condition).permute(0, 2, 3, 1).flatten(1)
        mean, logvar = self.last(x).float().chunk(2, dim=1)
        return mean, logvar


class Networks(course.Networks):
    """Encoder and decoder."""

    MEASURES = ("loss", "mse", "nats")
    CPU_AUTOCAST = True

    def __init__(self, settings: VAESettings, data: Data, device: str, seed: int):
        self.settings, self.device, self.text_width = settings, device, data.text.width
        width = data.text.width
        make = lambda: nn.ModuleDict(  # noqa: E731
            {"decoder": Generator(settings, width), "encoder": Encoder(settings, width)}
        )
        self.model = seeded(seed, make).to(device, memory_format=torch.channels_last)
        self.parameters = list(self.model.parameters())

    @property
    def exported(self) -> dict[str, Any]:
        return dict(self.model.items())

    def loss(self, batch: Batch) -> tuple[Any, ...]:
        """The negative bound for p(x | z, c) = N(decoded, 1), in nats a pixel's number:
        squared error / 2 + beta * KL(q(z | x, c) || N(0, 1)).
        """
        mean, logvar = self.model["encoder"](batch.vectors, batch.images)
        z = mean + (logvar / 2).exp() * batch.noise(*mean.shape)
        error = self.model["decoder"](batch.vectors, z).float() - batch.images
        mse = error.square().mean()
        nats = divergence(mean, logvar).mean(dim=0)
        numbers = batch.images[0].numel()
        paid = nats.clamp(min=self.settings.free_bits).sum()
        return mse / 2 + self.settings.beta * paid / numbers, mse, nats.sum()

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self.model.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state)


def divergence(mean: Any, logvar: Any) -> Any:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats, of each number."""
    return (mean.square() + logvar.exp() - 1 - logvar) / 2


def write(folder: Path, networks: Networks) -> None:
    config = networks.settings.config(networks.text_width)
    write_model(folder / "vae", config, networks.exported)
    index = {"_class_name": "ConditionalVAEPipeline", "vae": ["pyengine", "ConditionalVAE"]}
    write_json(folder / "model_index.json", index)
    write_json(folder / "pyengine.json", {})


CARD = """# A small variational autoencoder that draws emoji

Text to 64x64 pictures in one evaluation: normal numbers z are decoded beside the text. The encoder
is here too: `encode` pictures, draw what it gives by `latents=`, and `interpolate` between two.
What the text does not say is z's to tell, here the style (the text encoder, `emoji`'s, has learnt
one style only, and naming another changes nothing): other seeds draw other pictures of a thing.
They are soft: the likelihood is that of independent pixels, whose best guess is a mean.

```python
import pyengine
from PIL import Image
pipe = pyengine.from_pretrained("emoji-vae")
pipe("a red heart", seed=1).images[0].save("heart.png")
latents = pipe.encode([Image.open("one.png"), Image.open("two.png")], "a red heart")
pipe.interpolate("a red heart", *latents, count=8).images[3].save("between.png")
```
"""


def rows(settings: VAESettings) -> dict[str, str]:
    return {
        "latent": f"{settings.latent_channels} numbers",
        "loss": f"squared error / 2 + {settings.beta:g} KL, of which {settings.free_bits:g} nats"
        " a number are free",
        "prompts without a style": f"{1 - settings.styled:.0%}",
    }


RECIPE = SmallRecipe(
    name="vae",
    settings=VAESettings,
    networks=Networks,
    write=write,
    card=CARD,
    rows=rows,
    styles=STYLES,
    curves=("mse", "nats"),
)
