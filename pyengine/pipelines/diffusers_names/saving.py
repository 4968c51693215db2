"""save_pretrained: a checkpoint in diffusers' layout."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...errors import RequestError, UnknownArgumentError
from ...weights import Checkpoint
from ...weights.source import check_variant
from ...weights.text import did_you_mean, show
from ...weights.write import write_tensors

if TYPE_CHECKING:
    from .base import DiffusersNames
    from .schedulers import NamedScheduler

#: What is written where the checkpoint names none: the oldest diffusers that we compare with.
DIFFUSERS_VERSION = "0.35.0"
DEFAULTS_FILE = "pyengine.json"
_OTHERS = ("safe_serialization", "variant", "max_shard_size", "push_to_hub")


def save(
    pipeline: DiffusersNames, target: Any, safe: Any, variant: Any, others: dict[str, Any]
) -> None:
    """See DiffusersNames.save_pretrained."""
    if not isinstance(target, str | os.PathLike) or not os.fspath(target):
        raise RequestError(f"save_directory: expected a folder's path, given {show(target)}")
    if not safe:
        raise RequestError("safe_serialization: expected True: pickles can run code; none are made")
    check_variant(variant)
    _check_others(others)
    pipeline._check_own("save_pretrained")
    folder = Path(os.path.expanduser(os.fspath(target)))
    if folder.exists() and not folder.is_dir():
        raise RequestError(f"save_directory: expected a folder, found a file: {folder}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that moving it there is renaming.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as made:
        new = Path(made) / "new"
        new.mkdir()
        _write(pipeline, new, variant)
        _move(new, folder)


def _check_others(others: dict[str, Any]) -> None:
    for name, value in others.items():
        if name == "push_to_hub":
            if value:
                raise RequestError("push_to_hub: expected False; afterwards: hf upload ID folder")
        elif name not in ("max_shard_size", "use_flashpack") or (name == "use_flashpack" and value):
            raise UnknownArgumentError(
                f"{show(name)[1:-1]}: save_pretrained() got an unexpected keyword argument"
                f" {show(name)}{did_you_mean(name, _OTHERS)}"
            )


def _move(new: Path, folder: Path) -> None:
    """Every file of `new` into `folder`, each at once, in place of one that is there already."""
    if not folder.exists():
        os.replace(new, folder)
        return
    for file in sorted(p for p in new.rglob("*") if p.is_file()):
        to = folder / file.relative_to(new)
        to.parent.mkdir(exist_ok=True)
        os.replace(file, to)


def _write(pipeline: DiffusersNames, folder: Path, variant: str | None) -> None:
    checkpoint = pipeline.checkpoint
    assert checkpoint is not None  # _check_own has seen to it
    single = "model" in checkpoint.components  # as transformers saves one model: all in one folder
    for name in checkpoint.components:
        place = folder if single else folder / name
        place.mkdir(exist_ok=True)
        part = checkpoint.layout.parts[name]
        if part.kind == "model":
            _write_json(place / "config.json", _model_config(checkpoint, name))
            with checkpoint.tensors(name) as source:
                dtype = pipeline.components[name].dtype
                narrow = None if dtype == torch.float32 else dtype
                stem = "model" if part.model_types or single else "diffusion_pytorch_model"
                write_tensors(place / _weights_name(stem, variant), source, narrow)
        elif part.kind == "tokenizer":
            _write_tokenizer(checkpoint, name, place)
        elif part.kind == "scheduler":
            _write_json(place / part.config_file, _scheduler_config(pipeline, checkpoint, name))
        else:
            _copy_files(checkpoint.place(name), place)
    parts: Any = getattr(pipeline, "parts", None)
    beside: dict[str, list[str]] = {}
    if getattr(parts, "beside_places", None):
        from ..stable_diffusion.beside import write_beside

        narrow = None if parts.unet.dtype == torch.float32 else parts.unet.dtype
        beside = write_beside(parts.beside_places, parts.hub, parts.unet, folder, narrow)
    own = Path(getattr(checkpoint, "folder", "")) / DEFAULTS_FILE
    if own.is_file():
        shutil.copyfile(own, folder / DEFAULTS_FILE)
    if single:
        _copy_settings(checkpoint, folder)
    else:
        index = model_index(pipeline)
        if beside:
            index |= {"_class_name": _class_beside(pipeline, beside), **beside}
        _write_json(folder / "model_index.json", index)


def model_index(pipeline: DiffusersNames) -> dict[str, Any]:
    """What model_index.json says of a pipeline."""
    index: dict[str, Any] = {
        "_class_name": pipeline._class_name,
        "_diffusers_version": DIFFUSERS_VERSION,
    }
    checkpoint = pipeline.checkpoint
    if checkpoint is None or "model" in checkpoint.components:
        return index
    layout = checkpoint.layout
    for name in sorted(checkpoint.components):
        part = layout.parts[name]
        if part.kind == "scheduler" and part.classes is None:
            held = pipeline.components.get(name)
            named = checkpoint.config(name).get("_class_name")
            index[name] = [part.library, named if held is None else type(held).__name__]
        elif part.classes:
            index[name] = [part.library, class_of(checkpoint, name)]
    index |= {**layout.index, **getattr(checkpoint, "data", {})}
    index |= {name: [None, None] for name in getattr(pipeline, "absent_names", ())}
    index |= {name: [None, None] for name in layout.optional if name not in checkpoint.components}
    options = getattr(getattr(pipeline, "parts", None), "options", checkpoint.options)
    return index | options


def _class_beside(pipeline: DiffusersNames, beside: dict[str, list[str]]) -> str:
    """diffusers' class of a pipeline with these networks beside it."""
    name, checkpoint = pipeline._class_name, pipeline.checkpoint
    assert checkpoint is not None
    ((part, (_, cls)),) = beside.items()
    kind = "Adapter" if part == "adapter" else "ControlNetUnion" if "Union" in cls else "ControlNet"
    known = checkpoint.layout.beside
    task = next((t for t in ("Img2Img", "Inpaint") if t in name), "")
    base = name.removesuffix("Pipeline").removesuffix(task)
    found = f"{base}{kind}{'' if part == 'adapter' else task}Pipeline"
    if found not in known:
        raise RequestError(
            f"save_pretrained: diffusers has no class for a {name} beside a {cls}, so that nothing"
            " can say so in the folder; save them apart"
        )
    return found


def class_of(checkpoint: Checkpoint, name: str) -> str:
    """What model_index.json calls a part: the first of its classes, unless its config knows."""
    part = checkpoint.layout.parts[name]
    assert part.classes  # whoever asks has looked
    named = checkpoint.config(name).get("_class_name") if part.others else None
    return part.classes[0] if named is None else str(named)


def _model_config(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    config = dict(checkpoint.config(name))
    part = checkpoint.layout.parts[name]
    if part.classes and part.library == "diffusers":
        config.setdefault("_class_name", part.classes[0])
    elif part.classes and part.model_types:
        config.setdefault("model_type", part.model_types[0])
        config.setdefault("architectures", [part.classes[0]])
    return config


def _weights_name(stem: str, variant: str | None) -> str:
    return f"{stem}.{variant}.safetensors" if variant else f"{stem}.safetensors"


def _write_tokenizer(checkpoint: Checkpoint, name: str, place: Path) -> None:
    _copy(checkpoint.tokenizer_files(name), place)
    pad = checkpoint.tokenizer_pad(name)
    if pad is None:
        return
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        path = place / file
        said = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        _write_json(path, said | {"pad_token": pad})


def _scheduler_config(
    pipeline: DiffusersNames, checkpoint: Checkpoint, name: str
) -> dict[str, Any]:
    scheduler = getattr(pipeline, name, None)
    return checkpoint.config(name) if scheduler is None else saved_config(scheduler)


def saved_config(scheduler: NamedScheduler) -> dict[str, Any]:
    """A scheduler's config as it is saved: without what only its class' defaults fill."""
    from .schedulers import set_keys

    return {"_diffusers_version": DIFFUSERS_VERSION, **set_keys(scheduler.config)}


def write_scheduler(scheduler: NamedScheduler, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / scheduler.config_name, saved_config(scheduler))


def _copy_settings(checkpoint: Checkpoint, folder: Path) -> None:
    """The other JSON files of a folder with one model."""
    for file in checkpoint.layout.files.values():
        path = Path(getattr(checkpoint, "folder", "")) / file
        if path.is_file():
            shutil.copyfile(path, folder / file)


def _copy_files(place: Path, to: Path) -> None:
    _copy({p.name: p for p in place.iterdir() if p.suffix in (".json", ".safetensors")}, to)


def _copy(files: dict[str, Path], to: Path) -> None:
    for name, path in files.items():
        shutil.copyfile(path, to / name)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
