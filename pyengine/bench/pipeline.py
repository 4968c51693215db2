"""`pyengine bench pipeline`: a whole picture from a float16 checkpoint of SD 1.5's shape."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import ops
from . import checkpoints, timing
from .models import Contestants, Task, describe
from .peers import diffusers_models
from .results import OURS, Result, Row
from .worker import Run, Worker

PEERS = ("diffusers",)
PROMPT = "a red heart"
SEED = 7
#: Decibels under which two pictures count as different.
AGREEMENT = 40.0


def ours(
    notes: dict, *, threads: int, folder: Path, prompt: str, seed: int, size: int, steps: int,
    backend: str = "",
) -> Run:  # fmt: skip
    """from_pretrained and a call, as a user makes them."""
    torch.set_num_threads(threads)
    from ..pipelines import from_pretrained

    ops.isa()  # loads the kernels
    begin = time.perf_counter()
    pipe = from_pretrained(folder, device="cpu")
    notes["load_seconds"] = time.perf_counter() - begin

    def picture(callback: Callable) -> np.ndarray:
        with ops.force(backend) if backend else ExitStack():
            result = pipe(
                prompt, seed=seed, height=size, width=size, num_inference_steps=steps,
                output_type="np", callback_on_step_end=callback, progress=False,
            )  # fmt: skip
        notes["kernels"] = result.report.kernels
        return result.images

    return timed(picture, pipe.unet, notes, begin)


def timed(
    picture: Callable[[Callable], np.ndarray], unet: torch.nn.Module, notes: dict, begin: float
) -> Run:
    """picture(callback_on_step_end) as a Run. The first call notes when its first step began, since
    `begin`, and how long the last step took.
    """
    moments: list[float] = []
    hook = unet.register_forward_pre_hook(lambda *_: moments.append(time.perf_counter()))

    def after_step(*_: Any) -> dict:
        moments.append(time.perf_counter())
        return {}

    def run() -> np.ndarray:
        if "first_step_begins" in notes:
            return picture(lambda *_: {})
        image = picture(after_step)
        hook.remove()
        notes["first_step_begins"] = moments[0] - begin
        notes["step_seconds"] = moments[-1] - moments[-2]
        notes["decode_seconds"] = time.perf_counter() - moments[-1]
        return image

    return run


def measure(
    *, size: int, steps: int, quick: bool, threads: int, rounds: int, peers: tuple[str, ...],
    folder: Path, limits: timing.LimitsOfThisMinute, say: Callable[[str], None],
) -> Result:  # fmt: skip
    """One picture with guidance. folder: for the checkpoint, kept if it fits."""
    say("writing a float16 checkpoint")
    checkpoint = checkpoints.write_pipeline(folder / f"sd15{'-quick' if quick else ''}", quick)
    arguments = {"folder": checkpoint, "prompt": PROMPT, "seed": SEED, "size": size, "steps": steps}
    result = Result()
    with ExitStack() as stack:
        found = Contestants()
        say("loading")
        _read(checkpoint)
        found.workers[OURS] = stack.enter_context(Worker(OURS, ours, threads, **arguments))
        if "diffusers" in peers:
            _read(checkpoint)
            found.try_(stack, "diffusers", diffusers_models.pipeline, threads, **arguments)
        check(found, threads, arguments)
        result.missing = found.missing
        say(f"measuring {', '.join(found.workers)}")
        samplers = {name: worker.sample for name, worker in found.workers.items()}
        now, times = timing.contest(samplers, rounds, limits)
        flops, nbytes = _work(size, steps, quick)
        result.rows.append(
            Row(
                suite="pipeline",
                name="picture",
                shape=f"{size}x{size}, {steps} steps",
                inputs="",
                flops=flops,
                nbytes=nbytes,
                limits=now,
                times=times,
                kernels=found.workers[OURS].loaded.notes.pop("kernels", {}),
                facts={name: describe(worker) for name, worker in found.workers.items()},
            )
        )
    return result


def _read(checkpoint: Path) -> None:
    """Into the page cache, so that the disk is not what is measured."""
    for path in checkpoint.rglob("*.safetensors"):
        with open(path, "rb") as file:
            while file.read(1 << 24):
                pass


def _work(size: int, steps: int, quick: bool) -> tuple[int, int]:
    """Of all U-Net calls and the decoder; the text encoder adds 1% of a U-Net call."""
    latents = size // 2 ** (len(checkpoints.VAE["block_out_channels"]) - 1)
    unet = Task("unet", latents, 2, quick).work()
    vae = Task("vae", latents, 1, quick).work()
    return steps * unet[0] + vae[0], steps * unet[1] + vae[1]


def check(found: Contestants, threads: int, arguments: dict[str, Any]) -> None:
    """Raises RuntimeError where our picture is not the one that diffusers draws, or, where that is
    missing, the one that the specifications in pyengine.ops.reference make.
    """
    worker = found.workers[OURS]
    if "diffusers" in found.workers:
        truth, expected = "diffusers", found.workers["diffusers"].result
    else:
        truth = "the specification"
        with Worker(truth, ours, threads, backend="reference", **arguments) as other:
            expected = other.result
    distance = psnr(worker.result, expected)
    if not distance >= AGREEMENT:
        raise RuntimeError(
            f"pipeline: our picture is {distance:.1f} dB from {truth}'s, expected at least"
            f" {AGREEMENT:.0f}"
        )
    worker.loaded.notes["psnr"] = distance


def psnr(got: np.ndarray, expected: np.ndarray) -> float:
    """Decibels, for values in 0..1; 200 at most."""
    if got.shape != expected.shape:
        return 0.0
    error = float(np.mean((got.astype(np.float64) - expected) ** 2))
    return 10 * float(np.log10(1 / max(error, 1e-20)))
