"""A conditional variational autoencoder: a picture beside a text to a latent, and back.

Kingma & Welling 2014, arXiv:1312.6114. The decoder is that of TextGenerator.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...errors import RequestError
from ...guard import inference
from ...layers import Conv2d, Linear
from ...ops._moves import halved
from ...weights import read_config
from ..base import Model
from .generator import (
    FIRST_SIDE,
    WIDTH,
    WIDTHS,
    Block,
    Condition,
    Decoder,
    Modulated,
    TextGeneratorConfig,
    check_vectors,
)


@dataclass(frozen=True)
class ConditionalVAEConfig(TextGeneratorConfig):
    """config.json: TextGenerator's, and encoder_channels, of each size from the patches down to
    4x4; encoder_condition: width of what the encoder's blocks are told.
    """

    encoder_channels: tuple[int, ...] = field(default=(64, 64, 64), metadata=WIDTHS)
    encoder_condition: int = field(default=64, metadata=WIDTH)
    _class_name: Literal["ConditionalVAE"] = "ConditionalVAE"  # type: ignore[assignment]

    @classmethod
    def from_dict(cls, d: dict[str, Any], where: str = "config.json") -> "ConditionalVAEConfig":
        """From the parsed config.json; raises ConfigError that lists every problem."""
        return read_config(cls, d, where)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.latent_channels:
            raise ValueError("latent_channels: expected at least 1, found 0")
        if len(self.encoder_channels) != len(self.block_out_channels):
            raise ValueError(
                f"encoder_channels: expected {len(self.block_out_channels)} sizes, as of"
                f" block_out_channels, found {len(self.encoder_channels)}"
            )


class Encoder(nn.Module):
    """Texts and pictures to the mean and the log variance of latents."""

    def __init__(self, c: ConditionalVAEConfig):
        super().__init__()
        channels, width = c.encoder_channels, c.encoder_condition
        self.patch = c.patch_size
        self.condition = Condition(c.text_width, width)
        self.conv_in = Conv2d(3 * c.patch_size**2, channels[0])
        pairs = itertools.pairwise(channels)
        self.blocks = nn.ModuleList(Block(a, b, width, up=False) for a, b in pairs)
        self.norm_out = Modulated(width, channels[-1])
        self.last = Linear(FIRST_SIDE**2 * channels[-1], 2 * c.latent_channels)

    def forward(self, text: Tensor, images: Tensor) -> Tensor:
        """[N, C], [N, 3, H, W] -> [N, 2 Z]: means, then log variances."""
        condition = self.condition(text)
        x = self.conv_in(unshuffled(images, self.patch))
        for block in self.blocks:
            x = block(halved(x), condition)
        around = self.norm_out(condition)
        x = torch.addcmul(
            around["shift"].to(x.dtype)[:, None, None],
            x,
            around["scale"].to(x.dtype)[:, None, None],
        )
        made: Tensor = self.last(nn.functional.silu(x).flatten(1))
        return made


class ConditionalVAE(Model):
    """Texts and latents to pictures, texts and pictures to latents.

    mean, logvar = vae.encode(text, images)   # [N, C], [N, 3, H, W] -> [N, Z] each
    images = vae(text, mean)                  # [N, C], [N, Z] -> [N, 3, H, W], about -1..1
    """

    config_class = ConditionalVAEConfig

    def __init__(self, config: ConditionalVAEConfig):
        super().__init__(config)
        c = config
        self.decoder = Decoder(
            c.text_width,
            c.latent_channels,
            c.condition_channels,
            c.block_out_channels,
            c.patch_size,
        )
        self.encoder = Encoder(config)

    @inference
    def forward(self, text: Tensor, latents: Tensor) -> Tensor:
        """The decoder: pictures of texts and latents.

        Args:
            text: [N, text_width], a text's vector.
            latents: [N, latent_channels], standard normal.

        Returns:
            [N, 3, H, W], not limited to -1..1.

        Raises:
            RequestError: for other shapes.
        """
        check_vectors("text", text, self.config.text_width)
        check_vectors("latents", latents, self.config.latent_channels, len(text))
        with self.arena.use():
            text, latents = (t.to(self.device, self.dtype) for t in (text, latents))
            made: Tensor = self.decoder(text, latents)
            return made

    @inference
    def encode(self, text: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder: latents of pictures.

        Args:
            text: [N, text_width], a text's vector.
            images: [N, 3, H, W] in -1..1.

        Returns:
            The mean and the log variance of the latents, [N, latent_channels] each.

        Raises:
            RequestError: for other shapes.
        """
        check_vectors("text", text, self.config.text_width)
        side = self.config.sample_size
        if tuple(images.shape) != (len(text), 3, side, side):
            raise RequestError(
                f"images: expected [{len(text)}, 3, {side}, {side}], given {list(images.shape)}"
            )
        with self.arena.use():
            text, images = (t.to(self.device, self.dtype) for t in (text, images))
            mean, logvar = self.encoder(text, images).chunk(2, dim=1)
            return mean.clone(), logvar.clone()


def unshuffled(x: Tensor, patch: int) -> Tensor:
    """[N, 3, P * H, P * W] -> [N, H, W, 3 * P * P]: torch's pixel_unshuffle."""
    n, channels, height, width = x.shape
    x = x.reshape(n, channels, height // patch, patch, width // patch, patch)
    x = x.permute(0, 2, 4, 1, 3, 5).clone(memory_format=torch.contiguous_format)
    return x.view(n, height // patch, width // patch, channels * patch * patch)
