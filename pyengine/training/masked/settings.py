"""Settings of `pyengine train masked`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..small import SmallSettings

#: Pixels along each side of what a token stands for, in the VQ-VAE of `emoji-ar`.
PIXELS = 8


@dataclass(frozen=True)
class MaskedSettings(SmallSettings):
    """Shape of the transformer and course of its training. Prompts are made anew in every step, and
    pictures are not varied.

    codes: tokens of a picture; a masked position has the one after them. embedding: width of a
    token before and after the transformer. text_width: of the text encoder. corrupted: mean share
    of the known tokens that are replaced by random ones: when it draws, what it is given is not
    always right. smoothing: of the labels.
    """

    SHAPE = ("width", "inner", "layers", "heads", "embedding", "codes", "size", "text_width")

    width: int = 128
    inner: int = 256
    layers: int = 4
    heads: int = 4
    embedding: int = 64
    codes: int = 1024
    text_width: int = 128
    eps: float = 1e-6
    rate: float = 2e-3
    decay: float = 0.995
    weight_decay: float = 0.02
    steps: int = 1316
    cooldown: int = 200
    dropped: float = 0.1
    corrupted: float = 0.1
    smoothing: float = 0.1

    @property
    def side(self) -> int:
        """Tokens along each side."""
        return self.size // PIXELS

    def config(self) -> dict[str, Any]:
        """transformer/config.json of an exported model."""
        return {
            "_class_name": "MaskedTransformer",
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "embedding_size": self.embedding,
            "codebook_size": self.codes,
            "sample_size": self.side,
            "encoder_hidden_size": self.text_width,
            "rms_norm_eps": self.eps,
        }
