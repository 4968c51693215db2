"""Where networks beside a checkpoint lie: folders as diffusers saves them, single files."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, RequestError
from ..weights import load_json, open_weights
from ..weights.digest import model_hash
from ..weights.files import allowed_roots
from ..weights.header import SafetensorsFile
from ..weights.hub import fetch, is_hub_id
from ..weights.source import TensorSource, available_variants, check_variant
from ..weights.text import show

Place = str | os.PathLike[str]
#: HUB_OPTIONS, and the variant of weights ("fp16") that is read where a folder has it.
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
        options = dict(hub or {})
        if (variant := options.pop("variant", None)) is not None:
            check_variant(variant)
            named = [_of_variant(name, variant) for name in files]
            with suppress(CheckpointError):  # the repository may have none of it
                return fetch(text, named, **options)
        try:
            return fetch(text, files, **options)
        except CheckpointError as e:
            raise CheckpointError(f"{field}: {e}") from None
    if not path.exists():
        raise CheckpointError(f"{field}: no such file or folder: {show(os.fspath(value))}")
    return path


def _of_variant(name: str, variant: str) -> str:
    stem, dot, end = name.rpartition(".safetensors")
    return f"{stem}.{variant}.safetensors" if dot and not end else name


def variant_of(folder: Path, wanted: str | None) -> str | None:
    """The variant of weights that a network's folder is read in: the one that is wanted where it
    has that, else none where it has such, else the only one that it has.
    """
    there = available_variants(folder) if folder.is_dir() else {None}
    if wanted in there:
        return wanted
    return next(iter(there)) if len(there) == 1 else None


def open_network(folder: Path, hub: Hub | None = None) -> TensorSource:
    """The weights of a network's folder; see variant_of."""
    return open_weights(folder, variant=variant_of(folder, (hub or {}).get("variant")))


def folder_config(field: str, folder: Path) -> dict[str, Any]:
    """config.json of a folder; raises CheckpointError where there is none."""
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(f"{field}: {folder}: expected config.json in it, found none")
    return load_json(config, roots=allowed_roots(folder))


def hash_of(field: str, value: Any, variant: str | None = None) -> str:
    """SHA-256 of the weights in a folder or a file, hexadecimal; see weights.digest."""
    hub = {"variant": variant}
    path = find_place(field, value, hub)
    opened = (
        open_network(path, hub) if path.is_dir() else TensorSource([SafetensorsFile(path)], field)
    )
    with opened as source:
        return model_hash({"beside": source})
