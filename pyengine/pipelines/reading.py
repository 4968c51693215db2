"""Parts of a checkpoint that are no network: tokenizers, drafts, its own defaults for a call."""

import math
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..tokenizer import ClipTokenizer
from ..weights import Checkpoint, load_json, open_weights, read_config
from ..weights.files import allowed_roots
from ..weights.text import listing, show

#: A checkpoint's own defaults for a call; diffusers does not read it.
DEFAULTS_FILE = "pyengine.json"

#: Tokens of all drafts together.
MAX_DRAFTED = 1 << 22

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
    return read_config(cls, json, str(path), of_checkpoint=False)


def read_drafts(checkpoint: Checkpoint, part: str, side: int, codes: int) -> Tensor | None:
    """[M, side * side] int64: the drafts, int16 or int32 [M, side, side], that lie beside a part's
    config as model.safetensors; None where there are none. They change no picture: see drafts.py.
    """
    folder = getattr(checkpoint, "folder", None)
    if folder is None or not (Path(folder) / part / "model.safetensors").exists():
        return None
    with open_weights(folder, subfolder=part) as source:
        where = source.where
        if source.keys() != ["drafts"]:
            raise CheckpointError(f"{where}: expected one tensor, drafts, found"
                                  f" {listing(map(show, source.keys()))}")  # fmt: skip
        dtype, shape = source.spec("drafts")
        whole = dtype in (torch.int16, torch.int32) and len(shape) == 3 and shape[0] > 0
        if not whole or shape[1:] != (side, side) or math.prod(shape) > MAX_DRAFTED:
            raise CheckpointError(f"{where}: drafts: expected int16 or int32 [M, {side}, {side}],"
                                  f" at most {MAX_DRAFTED} in all, found {dtype}"
                                  f" {list(shape)}")  # fmt: skip
        drafts = source.read("drafts").long().flatten(1)
    low, high = int(drafts.min()), int(drafts.max())
    if low < 0 or high >= codes:
        raise CheckpointError(f"{where}: drafts: expected tokens 0 to {codes - 1}, found {low} to"
                              f" {high}")  # fmt: skip
    return drafts
