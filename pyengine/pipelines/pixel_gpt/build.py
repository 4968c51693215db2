"""From a checkpoint to the pipeline of pixels."""

from typing import Any

from ...errors import ConfigError
from ..reading import Load
from ..shipped_text import load_shipped_text
from ..text import token_length
from .pipeline import PixelGPTParts


def build(load: Load) -> Any:
    checkpoint = load.checkpoint
    configs, sources = load.configs(("transformer",), checkpoint.where)
    config = configs["transformer"]
    defaults = load.defaults()
    text = load_shipped_text(config.text_encoder, load)
    length = token_length(text.tokenizer, text.encoder)
    load.compare(check_parts, config, text.encoder.config, length)
    transformer = load.network("transformer", config, sources["transformer"])
    checkpoint.hold(sources)
    parts = PixelGPTParts(transformer, text.encoder, text.tokenizer)
    return load.pipeline_class(parts, checkpoint, load.source, defaults)


def check_parts(transformer: Any, text: Any, length: int) -> None:
    """Raises ConfigError where the transformer does not fit the text encoder that it names.

    length: tokens of the encoder's texts.
    """
    given = transformer.encoder_hidden_size, transformer.text_length
    if given != (text.hidden_size, length):
        raise ConfigError(
            f"transformer: encoder_hidden_size {given[0]} and text_length {given[1]}, but the text"
            f" encoder of {transformer.text_encoder} has {text.hidden_size} and {length}"
        )
