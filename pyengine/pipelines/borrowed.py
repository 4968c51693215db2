"""Parts that a small model takes from one that ships, by its name, in place of a copy."""

from typing import Any

from ..errors import ConfigError
from ..models import CLIPTextModel
from ..tokenizer import ClipTokenizer
from ..weights import load_module
from ..weights.checkpoint import FolderCheckpoint
from ..weights.text import listing, show
from .reading import Load, read_tokenizer


def shipped_checkpoint(load: Load, key: str) -> FolderCheckpoint:
    """The shipped checkpoint that model_index.json names under `key`.

    Raises ConfigError for anything but the name of one: no path is taken.
    """
    from .loading import NAMED, shipped_folder

    name = load.checkpoint.data.get(key)
    if not isinstance(name, str) or name not in NAMED:
        raise ConfigError(
            f"{load.source}: model_index.json: {key}: expected the name of a model that ships,"
            f" {listing(NAMED)}, given {show(name)}"
        )
    return FolderCheckpoint(shipped_folder(name), source=name)


def borrowed_network(load: Load, key: str, part: str) -> Any:
    """The network `part` of the shipped model that model_index.json names under `key`, in the
    loaded model's dtype.
    """
    checkpoint = shipped_checkpoint(load, key)
    if part not in checkpoint.models:
        raise ConfigError(
            f"{load.source}: model_index.json: {key}: expected a model with a {part}, given"
            f" {show(checkpoint.source)}, which has {listing(checkpoint.models)}"
        )
    config, source = checkpoint.component(part)
    cls = checkpoint.layout.parts[part].network_of(config)
    parsed = cls.config_class.from_dict(config, checkpoint.where(part))
    with source:
        return load_module(cls.from_config(parsed), source, dtype=load.dtype, device=load.device)


def borrowed_texts(load: Load) -> tuple[CLIPTextModel, ClipTokenizer]:
    """The CLIP text encoder and tokenizer of the model named under "text_encoder"."""
    encoder = borrowed_network(load, "text_encoder", "text_encoder")
    checkpoint = shipped_checkpoint(load, "text_encoder")
    return encoder, read_tokenizer(checkpoint, "text_encoder", encoder.config)
