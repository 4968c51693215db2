"""Finding a checkpoint: a folder, a single file, or a repository of the Hub."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, RequestError
from .checkpoint import Checkpoint, FolderCheckpoint
from .config import check_ignored
from .files import refuse_pickle
from .header import SafetensorsFile
from .hub import cached_folder, is_hub_id, open_hub
from .layout import Layout, find, layouts
from .single_file import SingleFileCheckpoint
from .single_model import SingleModelCheckpoint, holds_single_model
from .text import show


def resolve(
    path_or_hub_id: str | os.PathLike[str],
    variant: str | None = None,
    *,
    prediction_type: str | None = None,
    config: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool | None = None,
    force_download: bool | None = None,
    ignore_config_keys: Iterable[str] = (),
) -> Checkpoint:
    """The checkpoint at a path, or of a Hub id if there is no such path; headers only are read.

    path_or_hub_id: a folder in diffusers' layout (or transformers', for models that draw by
    themselves), a .safetensors file in the original layout of
    Stable Diffusion, or "organisation/name", from the Hub's cache or downloaded into it.
    variant: "fp16" etc., for folders that have such weights. prediction_type: for single files,
    "epsilon" or "v_prediction", which SD 2.x's tensors do not show (v_prediction unless told).
    config: for single files, a folder in diffusers' layout, or a Hub id that is cached, whose
    configs and tokenizers are used. revision, cache_dir, token: for Hub ids, as huggingface_hub
    takes them. local_files_only: a Hub id comes from the cache or not at all. force_download: it is
    downloaded though it is cached.
    ignore_config_keys: names of keys in model_index.json and the parts' configs that pyengine does
    not know and that may be left unread; what they asked for is then not done. Known keys are read
    all the same.

    Raises CheckpointError or ConfigError for what is missing, damaged, unsafe or not supported,
    RequestError for a wrong argument.
    """
    _check_hub_options(token, local_files_only, force_download)
    ignored = check_ignored(ignore_config_keys)
    text = os.fspath(path_or_hub_id)
    if "\0" in text:
        raise CheckpointError(f"{show(text)} is no path: it holds a NUL")
    # os.path's functions: pathlib's raise on names that are too long and on unknown users.
    path = Path(os.path.expanduser(text))
    if os.path.isdir(path):
        _only_for(prediction_type is None, "prediction_type", "single files", text)
        _only_for(config is None, "config", "single files", text)
        if holds_single_model(path):
            return SingleModelCheckpoint(path, variant=variant, ignore_config_keys=ignored)
        return FolderCheckpoint(path, variant=variant, ignore_config_keys=ignored)
    if os.path.exists(path):
        refuse_pickle(path)
        _only_for(variant is None, "variant", "folders and Hub ids", text)
        if (layout := _layout_of_file(path)) is not None:
            _only_for(prediction_type is None, "prediction_type", "Stable Diffusion's files", text)
            _only_for(config is None, "config", "Stable Diffusion's files", text)
            checkpoint: Checkpoint = find(layout.file)(path)
            return checkpoint
        return SingleFileCheckpoint(
            path, prediction_type=prediction_type, config=_configs(config, cache_dir, ignored)
        )
    refuse_pickle(path)
    if text.endswith(".safetensors") or not is_hub_id(text):
        raise CheckpointError(
            f"{show(text)}: no such file or folder (a Hub id has the form organisation/name)"
        )
    _only_for(prediction_type is None, "prediction_type", "single files", text)
    _only_for(config is None, "config", "single files", text)
    return open_hub(
        text,
        variant=variant,
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        local_files_only=bool(local_files_only),
        force_download=bool(force_download),
        ignore_config_keys=ignored,
    )


def _layout_of_file(path: Path) -> Layout | None:
    """The layout whose tensors a file has; None for Stable Diffusion's, whose class also says what
    is wrong with a file of no family.
    """
    candidates = [layout for layout in layouts() if layout.file is not None]
    if not candidates:
        return None
    file = SafetensorsFile(path)
    file.close()
    return next(
        (
            layout
            for layout in candidates
            for names in (layout.tensors, *layout.other_tensors)
            if all(name in file.entries for name in names)
        ),
        None,
    )


def _configs(
    config: str | os.PathLike[str] | None,
    cache_dir: str | os.PathLike[str] | None,
    ignored: Iterable[str],
) -> FolderCheckpoint | None:
    if config is None:
        return None
    text = os.fspath(config)
    folder: Path | None = Path(os.path.expanduser(text))
    if not os.path.isdir(text):
        folder = cached_folder(text, cache_dir=cache_dir) if is_hub_id(text) else None
    if folder is None:
        raise CheckpointError(
            f"config: expected a folder in diffusers' layout or a Hub id in the cache, given"
            f" {show(text)}; to fetch one: hf download ID --include '*.json' '*.txt'"
        )
    return FolderCheckpoint(folder, ignore_config_keys=ignored)


def _check_hub_options(token: Any, local_files_only: Any, force_download: Any) -> None:
    if not (token is None or isinstance(token, str | bool)):  # a secret: never shown
        raise RequestError(
            f"token: expected a text, True, False or None, given a {type(token).__name__}"
        )
    for name, value in (("local_files_only", local_files_only), ("force_download", force_download)):
        if not (value is None or isinstance(value, bool)):
            raise RequestError(f"{name}: expected True or False, given {show(value)}")
    if local_files_only and force_download:
        raise RequestError("force_download: expected False with local_files_only, given True")


def _only_for(holds: bool, argument: str, kinds: str, text: str) -> None:
    if not holds:
        raise CheckpointError(f"{show(text)}: {argument} is for {kinds}")
