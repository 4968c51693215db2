"""Settings of `pyengine train pixels`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...models.tokens.pixel_gpt import ENLARGED
from ..small import SmallSettings


@dataclass(frozen=True)
class PixelSettings(SmallSettings):
    """Shape of the transformer and course of its training. Prompts are made anew in every step, and
    pictures are not varied.

    colours: of the palette. text_width, text_length: of the text encoder's hidden states.
    corrupted: mean share of the pixels read that are replaced by others of the picture: when it
    draws, what it is given is not always right.
    """

    SHAPE = (
        "width", "inner", "layers", "heads", "colours", "size", "text_width", "text_length",
    )  # fmt: skip

    width: int = 128
    inner: int = 256
    layers: int = 3
    heads: int = 4
    colours: int = 64
    text_width: int = 128
    text_length: int = 24
    eps: float = 1e-6
    batch: int = 16
    rate: float = 2e-3
    decay: float = 0.99
    weight_decay: float = 0.02
    steps: int = 857
    cooldown: int = 150
    dropped: float = 0.1
    corrupted: float = 0.05

    @property
    def side(self) -> int:
        """Pixels along each side of what is drawn, which comes out enlarged."""
        return self.size // ENLARGED

    @property
    def context(self) -> int:
        """The longest row: a text's hidden states and a picture's pixels."""
        return self.text_length + self.side**2

    def config(self) -> dict[str, Any]:
        """transformer/config.json of an exported model, without the palette."""
        return {
            "_class_name": "PixelGPT",
            "vocab_size": self.colours,
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.eps,
            "encoder_hidden_size": self.text_width,
            "text_length": self.text_length,
            "sample_size": self.side,
        }
