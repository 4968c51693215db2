"""The text encoder of a shipped model, for models that name it instead of holding one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigError
from ..models import CLIPTextModel
from ..tokenizer import ClipTokenizer
from ..weights import resolve
from .loading import shipped_folder
from .reading import Load, read_tokenizer
from .text import encode

#: What a config's `text_encoder` may name.
TextEncoderName = Literal["emoji"]


@dataclass(frozen=True)
class ShippedText:
    """A text encoder and its tokenizer. name: of the shipped model whose they are."""

    name: str
    tokenizer: ClipTokenizer
    encoder: CLIPTextModel

    @property
    def width(self) -> int:
        """Channels of its hidden states."""
        return int(self.encoder.config.hidden_size)

    def encode(self, prompts: Sequence[str], warnings: list[str]) -> tuple[Tensor, Tensor]:
        """(hidden states [N, L, C], their means over the tokens [N, C]) of N prompts.

        L is the encoder's full length: shorter prompts are padded. warnings: gets what was cut off.
        Each row's bits depend on its own prompt only.
        """
        hidden, _ = encode(self.tokenizer, self.encoder, prompts, None, warnings)
        return hidden, torch.stack([row.mean(0) for row in hidden])


def load_shipped_text(name: TextEncoderName, load: Load) -> ShippedText:
    """The text encoder and tokenizer of the shipped model `name`, on load's device in its dtype.

    load: of the checkpoint whose config names it.
    """
    checkpoint = resolve(shipped_folder(name))
    own = replace(load, checkpoint=checkpoint, source=name, weights=None, wanted=None, given={})
    configs, sources = own.configs(("text_encoder",))
    tokenizer = read_tokenizer(checkpoint, "text_encoder", configs["text_encoder"])
    encoder = own.network("text_encoder", configs["text_encoder"], sources["text_encoder"])
    return ShippedText(name, tokenizer, encoder)


def check_width(text: ShippedText, width: int, where: str) -> None:
    """Raises ConfigError where a model's conditions are not as wide as the text encoder's."""
    if width != text.width:
        raise ConfigError(
            f"{where}: expected {text.width}, the width of {text.name}'s text"
            f" encoder, found {width}"
        )
