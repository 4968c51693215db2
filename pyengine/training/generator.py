"""The convolutional generator of one-shot, vae and gan, and the VAE's encoder, in plain torch.

The names of the parameters are those of the engine's networks (pyengine.models.conditional).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from .small import SmallSettings

FIRST_SIDE = 4


@dataclass(frozen=True)
class GeneratorSettings(SmallSettings):
    """channels: of each size, from 4x4 on; patch: pixels a side that the last layer makes of each
    of its own; condition: width of what the blocks are told.
    """

    SHAPE: ClassVar[tuple[str, ...]] = (
        "size",
        "channels",
        "patch",
        "condition",
        "latent_channels",
    )

    channels: tuple[int, ...] = (96, 96, 96)
    patch: int = 4
    condition: int = 128
    latent_channels: int = 0

    def config(self, text_width: int) -> dict[str, Any]:
        """config.json of the engine's TextGenerator."""
        return {
            "_class_name": "TextGenerator",
            "text_encoder": "emoji",
            "text_width": text_width,
            "latent_channels": self.latent_channels,
            "condition_channels": self.condition,
            "block_out_channels": list(self.channels),
            "patch_size": self.patch,
        }


class Modulated(nn.Module):
    """SiLU of x scaled and moved by functions of the condition: FiLM, Perez et al. 2018,
    arXiv:1709.07871. There are no norms: with the blocks' last convolutions zero at first the
    networks train without, in a third of the time on a CPU.
    """

    def __init__(self, condition: int, channels: int):
        super().__init__()
        self.film = nn.Linear(condition, 2 * channels)

    def forward(self, x: Any, condition: Any) -> Any:
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, dim=1)
        return functional.silu(torch.addcmul(shift, x, 1 + scale))


class Block(nn.Module):
    """A residual block. resample: "up" doubles the sides, "down" halves them."""

    def __init__(self, inputs: int, outputs: int, condition: int, resample: str):
        super().__init__()
        self.resample = resample
        self.norm1 = Modulated(condition, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = Modulated(condition, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Any, condition: Any) -> Any:
        if self.resample == "down":
            x = functional.avg_pool2d(x, 2)
        h, skip = self.norm1(x, condition), x if self.skip is None else self.skip(x)
        if self.resample == "up":
            h, skip = enlarged(h), enlarged(skip)
        return self.conv2(self.norm2(self.conv1(h), condition)) + skip


def enlarged(x: Any) -> Any:
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


class Condition(nn.Module):
    """A text vector, and a latent beside it where there is one, to what the blocks are told."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear1 = nn.Linear(inputs, outputs)
        self.linear2 = nn.Linear(outputs, outputs)

    def forward(self, *vectors: Any) -> Any:
        x = functional.silu(self.linear1(torch.cat(vectors, dim=1)))
        return functional.silu(self.linear2(x))


class Generator(nn.Module):
    """(text vectors [N, C], latents [N, Z]) -> pictures [N, 3, H, W]."""

    def __init__(self, settings: GeneratorSettings, text_width: int):
        super().__init__()
        channels, width = settings.channels, settings.condition
        self.condition = Condition(text_width + settings.latent_channels, width)
        self.first = nn.Linear(width, FIRST_SIDE * FIRST_SIDE * channels[0])
        self.blocks = nn.ModuleList(
            Block(a, b, width, "up") for a, b in itertools.pairwise(channels)
        )
        self.norm_out = Modulated(width, channels[-1])
        self.conv_out = nn.Conv2d(channels[-1], 3 * settings.patch**2, 3, padding=1)
        self.first_channels, self.patch = channels[0], settings.patch

    def forward(self, text: Any, latents: Any) -> Any:
        condition = self.condition(text, latents)
        x = self.first(condition).view(-1, FIRST_SIDE, FIRST_SIDE, self.first_channels)
        x = x.permute(0, 3, 1, 2)  # a view: channels last
        for block in self.blocks:
            x = block(x, condition)
        return functional.pixel_shuffle(self.conv_out(self.norm_out(x, condition)), self.patch)


def seeded(seed: int, make: Any) -> Any:
    """make() with torch's random numbers set for it alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()
