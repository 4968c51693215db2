"""diffusers' U-Net, decoder and pipeline on torch, eager and compiled."""

import time
from pathlib import Path
from typing import Any

import numpy as np

from ..worker import Run


def eager(notes: dict, *, threads: int, folder: Path, kind: str, inputs: dict) -> Run:
    """float32, channels_last: what suits torch's convolutions best."""
    return _run(_load(notes, threads, folder, kind), kind, inputs)


def compiled(notes: dict, *, threads: int, folder: Path, kind: str, inputs: dict) -> Run:
    """torch.compile with weights frozen into the graph; the first call compiles."""
    import torch
    from torch._inductor import config

    config.freezing = True
    model = _load(notes, threads, folder, kind)
    target = model if kind == "unet" else model.decode
    call = torch.compile(target, fullgraph=True, dynamic=False)
    return _run(call, kind, inputs)


def module(folder: Path, kind: str) -> Any:
    """The torch module as diffusers loads it."""
    return _classes()[kind].from_pretrained(folder).eval()


def _classes() -> dict[str, Any]:
    from diffusers import AutoencoderKL, UNet2DConditionModel

    return {"unet": UNet2DConditionModel, "vae": AutoencoderKL}


def _load(notes: dict, threads: int, folder: Path, kind: str) -> Any:
    import torch

    torch.set_num_threads(threads)
    _classes()  # their import is no part of loading
    begin = time.perf_counter()
    model = module(folder, kind).to(memory_format=torch.channels_last)
    notes["load_seconds"] = time.perf_counter() - begin
    return model


def _run(call: Any, kind: str, inputs: dict[str, np.ndarray]) -> Run:
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    first = tensors["sample"].contiguous(memory_format=torch.channels_last)

    def run() -> np.ndarray:
        # no_grad, not inference_mode: freezing asks for it, and eager is as fast with either.
        with torch.no_grad():
            if kind == "vae":
                decode = getattr(call, "decode", call)
                return decode(first, return_dict=False)[0].numpy()
            out = call(first, tensors["timestep"], tensors["text"], return_dict=False)
            return out[0].numpy()

    return run


def pipeline(notes: dict, *, threads: int, folder: Path, **call: Any) -> Run:
    """A picture by StableDiffusionPipeline; see pyengine.bench.pipeline."""
    import torch

    torch.set_num_threads(threads)
    # All that it will load, since imports are no part of loading.
    from diffusers import DDIMScheduler, StableDiffusionPipeline  # noqa: F401
    from diffusers.utils import logging as diffusers_logging
    from transformers import CLIPTextModel, CLIPTokenizer  # noqa: F401
    from transformers.utils import logging as transformers_logging

    from ..pipeline import timed

    for log in (diffusers_logging, transformers_logging):
        log.set_verbosity_error()
        log.disable_progress_bar()
    _classes()
    begin = time.perf_counter()
    pipe = StableDiffusionPipeline.from_pretrained(
        folder, torch_dtype=torch.float32, local_files_only=True
    )
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.vae.to(memory_format=torch.channels_last)
    pipe.set_progress_bar_config(disable=True)
    notes["load_seconds"] = time.perf_counter() - begin

    def picture(callback: Any) -> np.ndarray:
        generator = torch.Generator().manual_seed(call["seed"])
        return pipe(
            call["prompt"], height=call["size"], width=call["size"],
            num_inference_steps=call["steps"], generator=generator, output_type="np",
            callback_on_step_end=callback,
        ).images  # fmt: skip

    return timed(picture, pipe.unet, notes, begin)
