"""diffusers' U-Net and decoder on torch, eager and compiled."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..tasks import conditions, on_device
from ..worker import Notes, Run
from . import compiling


def eager(
    notes: Notes, *, threads: int, folder: Path, kind: str, inputs: dict[str, Any], **place: Any
) -> Run:
    """channels_last, what suits torch's convolutions best; place: device and dtype."""
    return _run(_load(notes, threads, folder, kind, **place), kind, inputs, **place)


def compiled(
    notes: Notes, *, threads: int, folder: Path, kind: str, inputs: dict[str, Any], **place: Any
) -> Run:
    """The same by torch.compile; see .compiling."""
    model = _load(notes, threads, folder, kind, **place)
    target = model if kind == "unet" else model.decode
    return _run(compiling.compiled(target, place["device"]), kind, inputs, **place)


def module(folder: Path, kind: str, dtype: Any = None) -> Any:
    """The torch module as diffusers loads it."""
    own = json.loads((folder / "config.json").read_text()).get("_class_name")
    cls = _classes()["pixels" if own == "UNet2DModel" else kind]
    return cls.from_pretrained(folder, torch_dtype=dtype).eval()


def _classes() -> dict[str, Any]:
    from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel

    return {"unet": UNet2DConditionModel, "pixels": UNet2DModel, "vae": AutoencoderKL}


def _load(notes: Notes, threads: int, folder: Path, kind: str, device: str, dtype: Any) -> Any:
    import torch

    torch.set_num_threads(threads)
    _classes()  # imported before the clock starts
    begin = time.perf_counter()
    model = module(folder, kind, dtype).to(device, memory_format=torch.channels_last)
    notes["load_seconds"] = time.perf_counter() - begin
    return model


def _run(call: Any, kind: str, inputs: dict[str, np.ndarray], device: str, dtype: Any) -> Run:
    import torch

    given = on_device(inputs, device, dtype)
    first = given["sample"].contiguous(memory_format=torch.channels_last)
    more: dict[str, Any] = {"added_cond_kwargs": conditions(given)} if conditions(given) else {}
    if "labels" in given:
        more = {"class_labels": given["labels"], "attention_mask": given["mask"]}

    def run() -> Any:
        # no_grad, not inference_mode: freezing asks for it, and eager is as fast with either.
        with torch.no_grad():
            if kind == "vae":
                return getattr(call, "decode", call)(first, return_dict=False)[0]
            text = [given["text"]] if "text" in given else []
            return call(first, given["timestep"], *text, return_dict=False, **more)[0]

    return run
