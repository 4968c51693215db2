"""Where networks beside a checkpoint lie: folders as diffusers saves them, single files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, RequestError
from ..weights import load_json, open_weights
from ..weights.digest import model_hash
from ..weights.files import allowed_roots
from ..weights.header import SafetensorsFile
from ..weights.hub import fetch, is_hub_id
from ..weights.source import TensorSource
from ..weights.text import show

Place = str | os.PathLike[str]
#: Options of the Hub: revision, cache_dir, token, local_files_only, force_download.
Hub = Mapping[str, Any]
HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")
#: The files of a folder with one network of diffusers', and of transformers'.
FILES = ("config.json", "diffusion_pytorch_model.safetensors")
ENCODER_FILES = ("config.json", "model.safetensors")


def hub_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of HUB_OPTIONS that are given."""
    return {name: given[name] for name in HUB_OPTIONS if given.get(name) is not None}


def find_place(
    field: str, value: Any, hub: Hub | None = None, files: Sequence[str] = FILES
) -> Path:
    """The path of a folder or file that is there, or of the snapshot of a Hub id, into whose cache
    `files` are downloaded where it lacks them. field: what errors call it.
    """
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise RequestError(
            f"{field}: expected a folder or a .safetensors file, given {show(value)}"
        )
    text = os.fspath(value)
    path = Path(os.path.expanduser(text))
    if not path.exists() and "/" in text and is_hub_id(text):
        try:
            return fetch(text, files, **(hub or {}))
        except CheckpointError as e:
            raise CheckpointError(f"{field}: {e}") from None
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
