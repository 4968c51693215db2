"""A convolutional generator: a text's vector and a latent to a picture, in one evaluation.

Residual blocks (He et al. 2016, arXiv:1512.03385) from 4x4 pixels up, whose activations the
condition scales and moves (FiLM, Perez et al. 2018, arXiv:1709.07871); the last convolution makes
a patch of pixels of each (Shi et al. 2016, arXiv:1609.05158).
"""

import itertools
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ...errors import RequestError
from ...guard import inference
from ...layers import Conv2d, Linear, PointwiseConv2d
from ...weights import read_config
from ..base import Model

FIRST_SIDE = 4
WIDTH = {"min": 1, "max": 4096}
WIDTHS = {"min": 1, "max": 4096, "max_items": 8}
LATENT = {"min": 0, "max": 4096}
PATCH = {"min": 1, "max": 16}


@dataclass(frozen=True)
class TextGeneratorConfig:
    """config.json, in names of ours.

    text_encoder: the shipped model whose text encoder it is conditioned on; text_width: of that.
    latent_channels: numbers in a latent; 0: it takes none. condition_channels: of what the blocks
    are told. block_out_channels: of each size, from 4x4 on. patch_size: pixels along a side that
    the last convolution makes of each of its own.
    """

    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset()

    text_encoder: Literal["emoji"] = "emoji"
    text_width: int = field(default=128, metadata=WIDTH)
    latent_channels: int = field(default=0, metadata=LATENT)
    condition_channels: int = field(default=128, metadata=WIDTH)
    block_out_channels: tuple[int, ...] = field(default=(96, 96, 96), metadata=WIDTHS)
    patch_size: int = field(default=4, metadata=PATCH)
    _class_name: Literal["TextGenerator"] = "TextGenerator"

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "TextGeneratorConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    @property
    def sample_size(self) -> int:
        """Pixels along a side."""
        return (FIRST_SIDE * self.patch_size) << (len(self.block_out_channels) - 1)

    def __post_init__(self) -> None:
        if not self.block_out_channels:
            raise ValueError("block_out_channels: expected at least one, found none")


class Modulated(nn.Module):
    """What goes before a convolution: SiLU of x scaled and moved by functions of the condition."""

    def __init__(self, condition: int, channels: int):
        super().__init__()
        self.film = Linear(condition, 2 * channels)

    def forward(self, condition: Tensor) -> dict[str, Any]:
        """condition [N, C] -> the arguments of Conv2d.forward."""
        scale, shift = self.film(condition).float().chunk(2, dim=1)
        return {"scale": 1 + scale, "shift": shift.contiguous(), "silu": True}


class Block(nn.Module):
    """A residual block. up: it doubles the sides."""

    def __init__(self, inputs: int, outputs: int, condition: int, up: bool):
        super().__init__()
        self.up = up
        self.norm1 = Modulated(condition, inputs)
        self.conv1 = Conv2d(inputs, outputs)
        self.norm2 = Modulated(condition, outputs)
        self.conv2 = Conv2d(outputs, outputs)
        self.skip = PointwiseConv2d(inputs, outputs) if inputs != outputs else None

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """[N, H, W, C] -> [N, H', W', Cout]; condition: [N, K]."""
        h = self.conv1(x, upsample=self.up, **self.norm1(condition))
        skip = x if self.skip is None else self.skip(x)
        if self.up:
            skip = skip.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
        made: Tensor = self.conv2(h, **self.norm2(condition), residual=skip)
        return made


class Condition(nn.Module):
    """A text's vector, and a latent beside it, to what the blocks are told."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.linear1 = Linear(inputs, outputs)
        self.linear2 = Linear(outputs, outputs)

    def forward(self, *vectors: Tensor) -> Tensor:
        x = self.linear1(torch.cat(vectors, dim=1), activation="silu")
        made: Tensor = self.linear2(x, activation="silu")
        return made


class Decoder(nn.Module):
    """The generator's layers, which a VAE has as its decoder."""

    def __init__(self, text: int, latent: int, width: int, channels: tuple[int, ...], patch: int):
        super().__init__()
        self.patch = patch
        self.condition = Condition(text + latent, width)
        self.first = Linear(width, FIRST_SIDE * FIRST_SIDE * channels[0])
        pairs = itertools.pairwise(channels)
        self.blocks = nn.ModuleList(Block(a, b, width, up=True) for a, b in pairs)
        self.norm_out = Modulated(width, channels[-1])
        self.conv_out = Conv2d(channels[-1], 3 * patch**2)

    def forward(self, text: Tensor, latents: Tensor) -> Tensor:
        """[N, C], [N, Z] -> [N, 3, H, W]."""
        condition = self.condition(text, latents)
        x = self.first(condition).view(len(text), FIRST_SIDE, FIRST_SIDE, -1)
        for block in self.blocks:
            x = block(x, condition)
        return shuffled(self.conv_out(x, **self.norm_out(condition)), self.patch)


class TextGenerator(Model):
    """Texts and latents to pictures.

    pictures = generator(text, latents)   # [N, C], [N, Z] -> [N, 3, H, W], about -1..1
    """

    config_class = TextGeneratorConfig

    def __init__(self, config: TextGeneratorConfig):
        super().__init__(config)
        self.decoder = Decoder(
            config.text_width,
            config.latent_channels,
            config.condition_channels,
            config.block_out_channels,
            config.patch_size,
        )

    @inference
    def forward(self, text: Tensor, latents: Tensor) -> Tensor:
        """Pictures of texts.

        Args:
            text: [N, text_width], a text's vector.
            latents: [N, latent_channels], standard normal.

        Returns:
            [N, 3, H, W], not limited to -1..1.

        Raises:
            RequestError: for other shapes.
        """
        c = self.config
        check_vectors("text", text, c.text_width)
        check_vectors("latents", latents, c.latent_channels, len(text))
        with self.arena.use():
            text, latents = (t.to(self.device, self.dtype) for t in (text, latents))
            made: Tensor = self.decoder(text, latents)
            return made


def check_vectors(name: str, x: Tensor, width: int, count: int | None = None) -> None:
    """Raises RequestError unless x is [N, width], of `count` rows where that is said."""
    wrong = x.dim() != 2 or x.shape[1] != width or not len(x)
    if wrong or (count is not None and len(x) != count):
        raise RequestError(
            f"{name}: expected [{'N' if count is None else count}, {width}], given {list(x.shape)}"
        )


def shuffled(x: Tensor, patch: int, channels: int = 3) -> Tensor:
    """[N, H, W, C * P * P] -> [N, C, P * H, P * W]: torch's pixel_shuffle, in memory of its own."""
    n, height, width, _ = x.shape
    x = x.view(n, height, width, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
    y = x.clone(memory_format=torch.contiguous_format)
    return y.view(n, channels, height * patch, width * patch)
