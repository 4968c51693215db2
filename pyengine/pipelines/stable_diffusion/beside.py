"""`controlnet=` and `adapter=`: networks beside a checkpoint's own, loaded and checked with it."""

from collections.abc import Mapping
from typing import Any

import torch

from ...adapters.controlnet import check_beside, load_controlnet
from ...adapters.t2i import check_adapter, load_t2i_adapter
from ...errors import RequestError
from ...models.control.controlnet import ControlNetModel
from ...models.control.t2i import T2IAdapter
from ...weights.text import show

#: More of them than anyone has use for.
MOST = 16


def load_beside(
    given: dict[str, Any], unet: Any, vae: Any, hub: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The fields of Parts for what was given as controlnet and adapter: objects of ours, folders,
    files or Hub ids, one or a list. hub: places.HUB_OPTIONS.

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
    return found


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
        if not isinstance(item, str) and not hasattr(item, "__fspath__") and not isinstance(
            item, ControlNetModel | T2IAdapter
        ):  # fmt: skip
            raise RequestError(f"{name}: expected a folder or a file, given {show(item)}")
    return items
