"""Where networks beside a checkpoint lie: folders as diffusers saves them, single files."""

import os
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, RequestError
from ..weights import load_json, open_weights
from ..weights.digest import model_hash
from ..weights.files import allowed_roots
from ..weights.header import SafetensorsFile
from ..weights.source import TensorSource
from ..weights.text import show

Place = str | os.PathLike[str]


def find_place(field: str, value: Any) -> Path:
    """The path of a folder or file that is there; field: what errors call it."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise RequestError(
            f"{field}: expected a folder or a .safetensors file, given {show(value)}"
        )
    path = Path(os.path.expanduser(os.fspath(value)))
    if not path.exists():
        raise CheckpointError(f"{field}: no such file or folder: {show(os.fspath(value))}")
    return path


def folder_config(field: str, folder: Path) -> dict[str, Any]:
    """config.json of a folder; raises CheckpointError where there is none."""
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(f"{field}: {folder}: expected config.json in it, found none")
    return load_json(config, roots=allowed_roots(folder))


def hash_of(field: str, value: Any) -> str:
    """SHA-256 of the weights in a folder or a file, hexadecimal; see weights.digest."""
    path = find_place(field, value)
    opened = open_weights(path) if path.is_dir() else TensorSource([SafetensorsFile(path)], field)
    with opened as source:
        return model_hash({"beside": source})
