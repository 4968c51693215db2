"""`pyengine bench pipeline`: a call of a pipeline, of any checkpoint or random weights."""

import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from .. import ops
from ..pipelines.loading import find_checkpoint
from ..pipelines.registry import family_of
from . import arrangements, checkpoints
from .calls import Asked, Call, call_of
from .contest import Contest, Contestants, psnr, relative_l2
from .peers import diffusers_pipelines
from .pictures import AGREEMENT, timed
from .results import OURS, Result
from .tasks import Task
from .worker import Notes, Run, loading

PEERS = ("diffusers",)
#: Relative L2 distance of embeddings that stops a benchmark.
EMBEDDINGS = 1e-3
#: Pixels a side of a picture of the sd15 arrangement where none are told, also of a --quick run.
SIDE, QUICK_SIDE = 512, 64


def ours(
    notes: Notes,
    *,
    threads: int,
    model: str | os.PathLike[str] | None,
    call: Call,
    backend: str = "",
) -> Run:
    """from_pretrained and calls of the pipeline. backend: for pyengine.ops.force; "" leaves the
    choice to the op tables.
    """
    from ..pipelines import from_pretrained

    with loading(notes, threads) as begin:
        pipe: Any = from_pretrained(model, device="cpu")

    def picture(**others: Any) -> np.ndarray:
        with ops.kernels_used() as used, ops.force(backend) if backend else ExitStack():
            result = call(pipe, progress=False, **others)
        notes["kernels"] = used.summary()
        return result

    return timed(picture, pipe.unet, notes, begin) if call.phases else picture


def measure(
    contest: Contest,
    model: str | None,
    arrangement: str,
    size: int | None,
    steps: int | None,
    pictures: int,
) -> Result:
    """One call. model: as from_pretrained takes it; None: of random weights in the arrangement."""
    random = model is None
    if random:
        contest.say(f"writing random weights: {arrangement}")
        model = str(arrangements.write(contest.folder, arrangement, contest.quick))
        if arrangement == "sd15":
            size = size or (QUICK_SIDE if contest.quick else SIDE)
    checkpoint, source = find_checkpoint(model)
    call = call_of(Asked(checkpoint, size, steps, pictures), contest.quick)
    folder: Path | None = getattr(checkpoint, "folder", None)
    with ExitStack() as stack:
        found = Contestants()
        contest.say("loading")
        _read(folder or Path(source))
        found.load(stack, OURS, ours, contest.threads, model=model, call=call)
        if "diffusers" in contest.peers and call.no_peer:
            found.missing["diffusers"] = call.no_peer
        elif "diffusers" in contest.peers:
            maker = diffusers_pipelines.eager
            found.try_(stack, "diffusers", maker, contest.threads, folder=folder, call=call)
        check(found, contest.threads, {"model": model, "call": call})
        contest.say(f"measuring {', '.join(found.workers)}")
        counted = random and arrangement == "sd15" and size is not None and pictures == 1
        count = next((v for k, v in call.keywords.items() if k == "num_inference_steps"), 0)
        flops, nbytes = _work(size, count, contest.quick) if counted and size else (0, 0)
        name = family_of(checkpoint.pipeline_class).name
        row = contest.row(
            found.workers,
            suite="pipeline",
            name=arrangement if random else name,
            shape=_shape(found.workers[OURS].result, call),
            flops=flops,
            nbytes=nbytes,
        )
    return Result([row], found.missing)


def _shape(result: np.ndarray, call: Call) -> str:
    """What comes out, and how many steps it took."""
    steps = [v for k, v in call.keywords.items() if k.endswith("num_inference_steps")]
    counts = f", {'+'.join(map(str, steps))} steps" if steps else ""
    if call.result != "images":
        return f"{result.shape[0]} x {result.shape[-1]} numbers{counts}"
    count, height, width = result.shape[:3]
    return f"{width}x{height}{f' x {count}' if count > 1 else ''}{counts}"


def _read(place: Path) -> None:
    """Reads the checkpoint into the page cache, so that loading does not measure the disk."""
    for path in place.rglob("*.safetensors") if place.is_dir() else [place]:
        if path.is_file():
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
    missing, the one that the specifications make.
    """
    truth, expected = found.truth("diffusers", ours, threads, **arguments)
    worker = found.workers[OURS]
    if arguments["call"].result == "images":
        distance = psnr(worker.result, expected)
        if not distance >= AGREEMENT:
            raise RuntimeError(
                f"pipeline: our picture is {distance:.1f} dB from {truth}'s, expected at least"
                f" {AGREEMENT:.0f}"
            )
        worker.loaded.notes["psnr"] = distance
        return
    distance = relative_l2(worker.result, expected)
    if not distance <= EMBEDDINGS:
        raise RuntimeError(
            f"pipeline: our embeddings are {distance:.1e} away from {truth}'s, expected at most"
            f" {EMBEDDINGS:.0e}"
        )
    worker.loaded.notes["relative_l2"] = distance
