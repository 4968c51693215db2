"""Parts of a checkpoint that are no network: tokenizers, and its own defaults for a call."""

from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError
from ..tokenizer import ClipTokenizer
from ..weights import Checkpoint, load_json, read_config
from ..weights.files import allowed_roots

#: A checkpoint's own defaults for a call; diffusers does not read it.
DEFAULTS_FILE = "pyengine.json"

D = TypeVar("D")


def read_tokenizer(checkpoint: Checkpoint, encoder: str, config: Any) -> ClipTokenizer:
    name = encoder.replace("text_encoder", "tokenizer")
    files = checkpoint.tokenizer_files(name)
    where = f"{checkpoint.source}: {name}"
    tokenizer = ClipTokenizer.from_files(files, where, checkpoint.tokenizer_pad(name))
    if tokenizer.size > config.vocab_size:
        raise ConfigError(f"{where}: ids up to {tokenizer.size - 1}, but {encoder}'s vocab_size is"
                          f" {config.vocab_size}")  # fmt: skip
    return tokenizer


def read_defaults(checkpoint: Checkpoint, cls: type[D]) -> D:
    """The checkpoint's pyengine.json over the pipeline's own defaults."""
    folder = getattr(checkpoint, "folder", None)
    path = None if folder is None else Path(folder) / DEFAULTS_FILE
    if path is None or not path.exists():
        return cls()
    json = load_json(path, max_bytes=1 << 16, roots=allowed_roots(path.parent))
    return read_config(cls, json, str(path))
