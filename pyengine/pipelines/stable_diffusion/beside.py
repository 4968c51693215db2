"""`controlnet=` and `adapter=`: networks beside a checkpoint's own, loaded and checked with it."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...adapters.controlnet import check_beside, load_controlnet, opened_controlnet
from ...adapters.t2i import check_adapter, load_t2i_adapter, opened_t2i_adapter
from ...errors import RequestError
from ...models.control.controlnet import ControlNetModel
from ...models.control.t2i import T2IAdapter
from ...weights.layout import BESIDE
from ...weights.text import show
from ...weights.write import write_tensors

#: More of them than anyone has use for.
MOST = 16


def load_beside(
    given: dict[str, Any], unet: Any, vae: Any, hub: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The fields of Parts for what was given as controlnet and adapter: objects of ours, folders,
    files or Hub ids, one or a list. hub: adapters.places.Hub.

    Raises RequestError, CheckpointError or ConfigError.
    """
    if len(given) > 1:
        raise RequestError("adapter: expected a ControlNet or a T2I-Adapter, given both")
    device, dtype, factor = unet.device, unet.dtype, vae.config.downscale
    found: dict[str, Any] = {}
    for name, value in given.items():
        made: list[Any] = []
        for item in _items(name, value):
            kind: Any = ControlNetModel if name == "controlnet" else T2IAdapter
            if isinstance(item, kind):
                _check_place(name, item, device, dtype)
            elif name == "controlnet":
                item = load_controlnet(item, unet.config, device, dtype, hub)
            else:
                item = load_t2i_adapter(item, device, dtype, hub)
            check: Any = check_beside if name == "controlnet" else check_adapter
            check(item, unet.config, factor)
            made.append(item)
        field = "controlnets" if name == "controlnet" else "t2i_adapters"
        found[field] = tuple(made)
        places = _items(name, value)
        if not any(isinstance(item, ControlNetModel | T2IAdapter) for item in places):
            found["beside_places"] = {name: tuple(map(_place, places))}
            found["hub"] = dict(hub or {})
    return found


def _place(item: Any) -> Any:
    """The same from any working directory."""
    path = Path(os.path.expanduser(os.fspath(item)))
    return path.absolute() if path.exists() else item


def write_beside(
    places: Mapping[str, tuple[Any, ...]],
    hub: Mapping[str, Any],
    unet: Any,
    folder: Path,
    dtype: torch.dtype | None,
) -> dict[str, list[str]]:
    """Writes networks beside a checkpoint as diffusers saves them, each in a folder of its own:
    name, name_1 and so on; without a variant's name, which loading does not ask of them. Returns
    what model_index.json says of them. dtype: as write_tensors takes it.
    """
    index = {}
    for name, own in places.items():
        classes = []
        for i, place in enumerate(own):
            to = folder / (f"{name}_{i}" if i else name)
            to.mkdir()
            how: Any = (
                opened_controlnet(place, unet.config, hub)
                if name == "controlnet"
                else (opened_t2i_adapter(place, hub))
            )
            with how as (config, source):
                classes.append(type(config).CLASS_NAMES[0])
                own_fields = (f.name for f in dataclasses.fields(config) if f.init)
                saved = {name: getattr(config, name) for name in own_fields}
                saved["_class_name"] = classes[-1]
                text = json.dumps(saved, indent=2, sort_keys=True) + "\n"
                (to / "config.json").write_text(text, encoding="utf-8")
                write_tensors(to / "diffusion_pytorch_model.safetensors", source, dtype)
        index[name] = ["diffusers", BESIDE[name] if len(own) > 1 else classes[0]]
    return index


def _check_place(name: str, network: Any, device: torch.device, dtype: torch.dtype) -> None:
    if network.device.type != device.type or network.dtype != dtype:
        raise RequestError(
            f"{name}: expected one on {device} in {dtype}, given one on {network.device} in"
            f" {network.dtype}; load it with device= and dtype="
        )


def _items(name: str, value: Any) -> list[Any]:
    items = list(value) if isinstance(value, list | tuple) else [value]
    if not 1 <= len(items) <= MOST:
        raise RequestError(f"{name}: expected 1 to {MOST} of them, given {len(items)}")
    for item in items:
        module = type(item).__module__.partition(".")[0]
        if module == "diffusers":
            raise RequestError(
                f"{name}: expected pyengine's (pyengine.models has the class), a folder or a file,"
                f" given diffusers' {type(item).__name__}"
            )
        if (
            not isinstance(item, str)
            and not hasattr(item, "__fspath__")
            and not isinstance(item, ControlNetModel | T2IAdapter)
        ):
            raise RequestError(f"{name}: expected a folder or a file, given {show(item)}")
    return items
