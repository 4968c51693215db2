"""`pyengine train gan`: a conditional GAN, text and noise to a picture in one evaluation.

Goodfellow et al. 2014, arXiv:1406.2661. What keeps it stable on little data and time:

- the generator begins as a regression (as Ledig et al. 2017, arXiv:1609.04802, begin theirs), and
  the L1 distance to the prompt's picture stays in its loss (Isola et al. 2017, arXiv:1611.07004);
- hinge loss (Lim & Ye 2017, arXiv:1705.02894), spectral norm in the discriminator (Miyato et al.
  2018, arXiv:1802.05957), and the text in it by projection (Miyato & Koyama 2018,
  arXiv:1802.05637);
- a gradient penalty at real pictures, every few steps (R1, Mescheder et al. 2018,
  arXiv:1801.04406);
- the discriminator sees real and drawn pictures mirrored and moved alike (Zhao et al. 2020,
  arXiv:2006.10738);
- what is exported is the average of the generator's weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from . import course
from .generator import Generator, GeneratorSettings, seeded
from .model_folder import write_json
from .small import Batch, Data, SmallRecipe
from .small_folder import write_model


@dataclass(frozen=True)
class GANSettings(GeneratorSettings):
    """critic: channels of the discriminator's sizes, from a quarter of the picture's down. begins:
    the step at which the discriminator takes part; until then regression alone. l1, adversarial:
    weights in the generator's loss. r1: weight of the gradient penalty, every `lazy` steps. moved:
    pixels by which the discriminator's pictures are moved at most.
    """

    SHAPE = (*GeneratorSettings.SHAPE, "critic", "begins")

    latent_channels: int = 16
    critic: tuple[int, ...] = (96, 128, 160)
    critic_rate: float = 4e-4
    begins: int = 1200
    l1: float = 1.0
    adversarial: float = 0.05
    r1: float = 1.0
    lazy: int = 16
    moved: int = 4
    steps: int = 1800
    cooldown: int = 300


class CriticBlock(nn.Module):
    """A residual block that halves the sides."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv1 = spectral_norm(nn.Conv2d(inputs, inputs, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(inputs, outputs, 3, padding=1))
        self.skip = spectral_norm(nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Any) -> Any:
        x = functional.avg_pool2d(x, 2)
        h = self.conv1(functional.leaky_relu(x, 0.2))
        return self.conv2(functional.leaky_relu(h, 0.2)) + self.skip(x)


class Critic(nn.Module):
    """The discriminator: (text vectors [N, C], pictures [N, 3, H, W]) -> scores [N], of real ones
    above those of drawn ones.
    """

    def __init__(self, channels: tuple[int, ...], text_width: int):
        super().__init__()
        self.conv_in = spectral_norm(nn.Conv2d(48, channels[0], 3, padding=1))
        self.blocks = nn.ModuleList(
            CriticBlock(*pair)
            for pair in zip(channels, channels[1:], strict=False)  # noqa: RUF007 - of tuples
        )
        self.linear = spectral_norm(nn.Linear(channels[-1], 1))
        self.project = spectral_norm(nn.Linear(text_width, channels[-1]))

    def forward(self, text: Any, images: Any) -> Any:
        x = self.conv_in(functional.pixel_unshuffle(images, 4))
        for block in self.blocks:
            x = block(x)
        x = functional.leaky_relu(x, 0.2).mean(dim=(2, 3))
        return self.linear(x).flatten() + (self.project(text) * x).sum(dim=1)


class Networks(course.Networks):
    """The generator, which the frame trains, and the discriminator, with an optimiser of its own:
    its step comes before the generator's, on the same batch.
    """

    MEASURES = ("loss", "l1", "fooled", "real", "drawn")
    CPU_AUTOCAST = True

    def __init__(self, settings: GANSettings, data: Data, device: str, seed: int):
        self.settings, self.device, self.text_width = settings, device, data.text.width
        self.generator = seeded(seed, lambda: Generator(settings, data.text.width))
        self.critic = seeded(seed + 1, lambda: Critic(settings.critic, data.text.width))
        for network in (self.generator, self.critic):
            network.to(device, memory_format=torch.channels_last)
        self.parameters = list(self.generator.parameters())
        self.optimizer = torch.optim.Adam(
            self.critic.parameters(), lr=settings.critic_rate, betas=(0.0, 0.99), fused=True
        )
        self.step = 0

    @property
    def exported(self) -> dict[str, Any]:
        return {"generator": self.generator}

    def before_step(self, step: int, batches: Any) -> None:
        self.step = step

    def loss(self, batch: Batch) -> tuple[Any, ...]:
        """L1 to the prompt's picture, less the discriminator's score of what was drawn."""
        settings = self.settings
        noise = batch.noise(len(batch.images), settings.latent_channels)
        drawn = self.generator(batch.vectors, noise).float()
        l1 = (drawn - batch.images).abs().mean()
        zero = torch.zeros_like(l1)
        if self.step < settings.begins:
            return l1 + (drawn - batch.images).square().mean(), l1, zero, zero, zero
        real, fake = self.teach(batch, drawn.detach())
        self.critic.requires_grad_(False)
        score = self.critic(batch.vectors, self.shown(batch, drawn)).mean()
        self.critic.requires_grad_(True)
        return settings.l1 * l1 - settings.adversarial * score, l1, score, real, fake

    def teach(self, batch: Batch, drawn: Any) -> tuple[Any, Any]:
        """The discriminator's step; the mean scores of real and of drawn pictures.

        Hinge loss: mean max(0, 1 - D(real)) + mean max(0, 1 + D(drawn)); every `lazy` steps
        + lazy * r1 / 2 * |gradient of D at real pictures|^2.
        """
        settings = self.settings
        seen = self.shown(batch, batch.images)
        real = self.critic(batch.vectors, seen)
        fake = self.critic(batch.vectors, self.shown(batch, drawn))
        loss = functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
        if self.step % settings.lazy == 0:
            loss = loss + settings.lazy * settings.r1 / 2 * self.slope(batch.vectors, seen)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return real.mean(), fake.mean()

    def slope(self, text: Any, images: Any) -> Any:
        """The squared norm of the score's gradient to the pictures, its mean, in float32."""
        images = images.detach().requires_grad_()
        with torch.autocast(images.device.type, enabled=False):
            score = self.critic(text, images).sum()
            (gradient,) = torch.autograd.grad(score, images, create_graph=True)
            return gradient.square().sum(dim=(1, 2, 3)).mean()

    def shown(self, batch: Batch, images: Any) -> Any:
        """Pictures [N, 3, H, W] as the discriminator sees them: half mirrored, all moved over
        white, differentiably.
        """
        count, _, height, width = images.shape
        most, numbers = self.settings.moved, batch.generator
        y, x = torch.randint(0, 2 * most + 1, (2, count), generator=numbers).tolist()
        flip = (torch.rand(count, generator=numbers) < 0.5).tolist()
        wide = functional.pad(images, (most,) * 4, value=1.0)
        rows = [
            wide[i : i + 1, :, y[i] : y[i] + height, x[i] : x[i] + width].flip(3)
            if flip[i]
            else wide[i : i + 1, :, y[i] : y[i] + height, x[i] : x[i] + width]
            for i in range(count)
        ]
        return torch.cat(rows)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.state_dict(), "critic": self.critic.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        self.critic.load_state_dict(state["critic"])

    def more_state(self) -> dict[str, Any]:
        return {"critic_optimizer": self.optimizer.state_dict()}

    def load_more_state(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["critic_optimizer"])


def write(folder: Path, networks: Networks) -> None:
    config = networks.settings.config(networks.text_width)
    write_model(folder / "generator", config, {"decoder": networks.generator})
    index = {"_class_name": "ConditionalGANPipeline", "generator": ["pyengine", "TextGenerator"]}
    write_json(folder / "model_index.json", index)
    write_json(folder / "pyengine.json", {})


CARD = """# A small GAN that draws emoji

Text and noise to 64x64 pictures in one evaluation of a convolutional generator, which begins as a
regression and is then trained against a discriminator, for as many steps as the table says: the
discriminator asks for sharper pictures than a regression's. What it lacks is variety: other seeds
draw next to the same picture, since the L1 distance that keeps it stable asks for the one picture
of each prompt that it has seen.

```python
import pyengine
pipe = pyengine.from_pretrained("emoji-gan")
pipe("a red heart", seed=1).images[0].save("heart.png")
```
"""


def rows(settings: GANSettings) -> dict[str, str]:
    return {
        "noise": f"{settings.latent_channels} normal numbers beside the text",
        "loss": f"hinge, weight {settings.adversarial:g}, + {settings.l1:g} L1; regression alone"
        f" for the first {settings.begins:,} steps",
        "discriminator": f"spectral norm, projection of the text, Adam {settings.critic_rate:g};"
        f" R1 of weight {settings.r1:g} every {settings.lazy} steps; pictures mirrored and moved by"
        f" up to {settings.moved} pixels",
    }


RECIPE = SmallRecipe(
    name="gan",
    settings=GANSettings,
    networks=Networks,
    write=write,
    card=CARD,
    rows=rows,
    curves=("l1", "loss"),
)
