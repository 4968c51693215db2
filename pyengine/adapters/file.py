"""Finding and opening a LoRA: a file, a folder that holds one, or a repository of the Hub."""

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, RequestError
from ..weights.files import allowed_roots, check_inside, list_folder, refuse_pickle
from ..weights.header import SafetensorsFile
from ..weights.hub import cached_folder, download_file, is_hub_id
from ..weights.jsonio import load_json
from ..weights.load import machine_memory
from ..weights.source import TensorSource
from ..weights.text import listing, show

#: What diffusers and peft call the file in a folder.
NAMES = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
PEFT_CONFIG = "adapter_config.json"
#: The key of a file's metadata under which diffusers keeps peft's configs, by part.
DIFFUSERS_METADATA = "lora_adapter_metadata"
CHUNK = 1 << 20


class LoraFile:
    """An open LoRA file, its header checked.

    tensors: by name. metadata: {str: str}. configs: peft's by part ("" for all), as far as the file
    or its folder has any. source: what to call it.
    """

    def __init__(self, path: Path, source: str, roots: tuple[str, ...] | None = None):
        self.path, self.source = path, source
        file = SafetensorsFile(path, roots)
        self.metadata: Mapping[str, str] = file.metadata
        self._file = file
        self.tensors = TensorSource([file], source)
        self.configs = self._configs(path, roots)
        memory = machine_memory()
        if memory is not None and self.tensors.nbytes() > memory:
            self.close()
            raise CheckpointError(
                f"{source}: takes {self.tensors.nbytes() / 1e9:.1f} GB, this"
                f" machine has {memory / 1e9:.1f} GB"
            )

    def _configs(self, path: Path, roots: tuple[str, ...] | None) -> dict[str, dict[str, Any]]:
        text = self.metadata.get(DIFFUSERS_METADATA)
        beside = path.parent / PEFT_CONFIG
        if text is not None:
            return _by_part(text)
        if path.name == NAMES[1] and beside.is_file():
            return {"": load_json(beside, max_bytes=1 << 20, roots=roots)}
        return {}

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file, hexadecimal."""
        digest = hashlib.sha256()
        for begin in range(0, self._file.size, CHUNK):
            digest.update(self._file.read_bytes(begin, min(begin + CHUNK, self._file.size)))
        return digest.hexdigest()

    def close(self) -> None:
        self.tensors.close()

    def __enter__(self) -> "LoraFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _by_part(text: str) -> dict[str, dict[str, Any]]:
    """{"unet.r": 4, "text_encoder.lora_alpha": 8, ...} by part."""
    try:
        flat = json.loads(text) if len(text) < 1 << 22 else None
    except (ValueError, RecursionError):
        flat = None
    found: dict[str, dict[str, Any]] = {}
    for key, value in flat.items() if isinstance(flat, dict) else ():
        part, _, name = str(key).partition(".")
        found.setdefault(part, {})[name] = value
    return found


#: What peft's init_lora_weights begins with where the model's own weights were changed, too.
_OTHER_WEIGHTS = ("pissa", "olora", "corda", "loftq")


def check_peft(configs: Mapping[str, Mapping[str, Any]], where: str) -> None:
    """Raises CheckpointError for adapters of peft's whose tensors mean something else here: not
    LoRA's, or differences from weights that are not the model's.
    """
    for config in configs.values():
        kind, first = config.get("peft_type", "LORA"), config.get("init_lora_weights", True)
        if kind not in ("LORA", None):
            raise CheckpointError(f"{where}: peft_type: expected LORA, found {show(kind)}")
        if isinstance(first, str) and first.lower().startswith(_OTHER_WEIGHTS):
            raise CheckpointError(
                f"{where}: init_lora_weights: it was trained beside other weights than the model's,"
                f" {show(first)}: save it with path_initial_model_for_weight_conversion"
            )


def peft_alpha(config: Mapping[str, Any], module: str, rank: int, where: str) -> float | None:
    """alpha as a peft config has it, for a module of that rank; None where it says nothing. Of
    several patterns the first that matches counts, as in peft.

    use_rslora divides by the root of the rank: Kalajdzievski 2023, arXiv:2312.03732.
    Raises CheckpointError for patterns that are more than names: see _matches.
    """
    patterns = config.get("alpha_pattern")
    alpha = config.get("lora_alpha")
    for pattern, value in patterns.items() if isinstance(patterns, dict) else ():
        if _matches(pattern, module, where):
            alpha = value
            break
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha):
        return None
    return float(alpha) * (math.sqrt(rank) if config.get("use_rslora") is True else 1.0)


def _matches(pattern: str, module: str, where: str) -> bool:
    """Whether a key of alpha_pattern is a module's whole name or, without ^, an end of it behind a
    dot. To peft these keys are regular expressions, which may take any time: here names, with
    escaped dots, ^, $ and |.
    """
    plain = pattern.replace("\\.", ".")
    if len(pattern) > 10_000 or not re.fullmatch(r"[\w.^$|-]*", plain):
        raise CheckpointError(
            f"{where}: alpha_pattern: expected names of modules, without wildcards, found"
            f" {show(pattern)}"
        )
    for name in (one.removesuffix("$") for one in plain.split("|")):
        whole = name.removeprefix("^")
        if module == whole or (whole == name and module.endswith(f".{name}")):
            return True
    return False


def open_lora(
    place: str | os.PathLike[str],
    weight_name: str | None = None,
    *,
    subfolder: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool | None = None,
    force_download: bool | None = None,
    usual: Sequence[str] = NAMES,
    what: str = "lora",
) -> LoraFile:
    """The LoRA at `place`, or the other file of tensors that `what` says in errors.

    place: a .safetensors file; a folder with one, or with one of `usual` among several; the name of
    a LoRA that ships; a Hub id, out of the cache or downloaded, where the file is the first of
    these. weight_name: which file of the folder or repository. subfolder: where there. The others:
    as pyengine.weights.resolve takes them.
    Raises CheckpointError for what is not there or no sound file, RequestError for a wrong
    argument.
    """
    if not isinstance(place, str | os.PathLike) or not os.fspath(place):
        raise RequestError(f"{what}: expected a file, a folder or a Hub id, given {show(place)}")
    for name, value in (("weight_name", weight_name), ("subfolder", subfolder)):
        if value is not None and not isinstance(value, str):
            raise RequestError(f"{name}: expected a text, given {show(value)}")
    text = os.path.expanduser(os.fspath(place))
    if "\0" in text:
        raise CheckpointError(f"{show(text)} is no path: it holds a NUL")
    if os.path.isdir(text):
        return _in_folder(Path(text), weight_name, subfolder, usual)
    if what == "lora" and text in shipped_loras() and not os.path.exists(text):
        return _in_folder(_shipped() / text, weight_name, subfolder, usual)
    refuse_pickle(text)
    if os.path.exists(text) or not is_hub_id(text):
        return LoraFile(Path(text), text)
    kept = cached_folder(text, revision=revision, cache_dir=cache_dir)
    inside = None if kept is None else kept / (subfolder or "")
    if kept is not None and not force_download and _has(inside, weight_name, usual):
        return _in_folder(kept, weight_name, subfolder, usual)
    names = [weight_name] if weight_name is not None else list(usual[:1])
    path = download_file(
        text,
        "/".join(filter(None, (subfolder, names[0]))),
        revision=revision,
        cache_dir=cache_dir,
        token=token,
        local_files_only=local_files_only,
        force_download=force_download,
    )
    return LoraFile(path, f"{text}: {names[0]}")


def shipped_loras() -> tuple[str, ...]:
    """The names of the LoRAs that ship."""
    place = _shipped()
    return tuple(n for n in list_folder(place) if (place / n).is_dir()) if place.is_dir() else ()


def _shipped() -> Path:
    return Path(str(package_files("pyengine"))) / "assets" / "loras"


def _has(folder: Path | None, weight_name: str | None, known: Sequence[str]) -> bool:
    """Whether a folder has the file, or one that would be taken where none is named."""
    if folder is None or not folder.is_dir():
        return False
    names = [n for n in list_folder(folder) if n.endswith(".safetensors")]
    usual = any(n in names for n in known) or len(names) == 1
    return usual if weight_name is None else weight_name in names


def _in_folder(
    folder: Path, weight_name: str | None, subfolder: str | None, known: Sequence[str]
) -> LoraFile:
    roots = allowed_roots(folder)
    inside = folder / subfolder if subfolder else folder
    check_inside(inside, roots)
    if weight_name is not None:
        path = inside / weight_name
        refuse_pickle(path)
        check_inside(path, roots)
        return LoraFile(path, str(path), roots)
    names = [n for n in list_folder(inside) if n.endswith(".safetensors")]
    usual = [n for n in known if n in names]
    if not usual and len(names) != 1:
        raise CheckpointError(
            f"{inside}: expected one .safetensors file or {known[0]}, found"
            f" {listing(map(show, names)) or 'none'}; weight_name= says which"
        )
    path = inside / (usual or names)[0]
    return LoraFile(path, str(path), roots)
