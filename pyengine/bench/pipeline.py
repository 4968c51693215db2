"""`pyengine bench pipeline`: a whole picture from a float16 checkpoint of SD 1.5's shape."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from .. import ops
from . import checkpoints
from .contest import Contest, Contestants, psnr
from .peers import diffusers_models
from .pictures import AGREEMENT, PROMPT, SEED, timed
from .results import OURS, Result
from .tasks import Task
from .worker import Notes, Run, loading

PEERS = ("diffusers",)


def ours(
    notes: Notes, *, threads: int, folder: Path, prompt: str, seed: int, size: int, steps: int,
    backend: str = "",
) -> Run:  # fmt: skip
    """from_pretrained and calls of the pipeline."""
    from ..pipelines import from_pretrained

    with loading(notes, threads) as begin:
        pipe: Any = from_pretrained(folder, device="cpu")

    def picture(callback: Callable[..., Any]) -> Any:
        with ops.force(backend) if backend else ExitStack():
            result = pipe(
                prompt, seed=seed, height=size, width=size, num_inference_steps=steps,
                output_type="np", callback_on_step_end=callback, progress=False,
            )  # fmt: skip
        notes["kernels"] = result.report.kernels
        return result.images

    return timed(picture, pipe.unet, notes, begin)


def measure(contest: Contest, size: int, steps: int) -> Result:
    """One picture with guidance."""
    contest.say("writing a float16 checkpoint")
    name = f"sd15{'-quick' if contest.quick else ''}"
    checkpoint = checkpoints.write_pipeline(contest.folder / name, contest.quick)
    arguments = {"folder": checkpoint, "prompt": PROMPT, "seed": SEED, "size": size, "steps": steps}
    with ExitStack() as stack:
        found = Contestants()
        contest.say("loading")
        _read(checkpoint)
        found.load(stack, OURS, ours, contest.threads, **arguments)
        if "diffusers" in contest.peers:
            _read(checkpoint)
            maker = diffusers_models.pipeline
            found.try_(stack, "diffusers", maker, contest.threads, **arguments)
        check(found, contest.threads, arguments)
        contest.say(f"measuring {', '.join(found.workers)}")
        flops, nbytes = _work(size, steps, contest.quick)
        row = contest.row(
            found.workers, suite="pipeline", name="picture", shape=f"{size}x{size}, {steps} steps",
            flops=flops, nbytes=nbytes,
        )  # fmt: skip
    return Result([row], found.missing)


def _read(checkpoint: Path) -> None:
    """Reads the checkpoint into the page cache, so that loading does not measure the disk."""
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
    missing, the one that the specifications make.
    """
    truth, expected = found.truth("diffusers", ours, threads, **arguments)
    worker = found.workers[OURS]
    distance = psnr(worker.result, expected)
    if not distance >= AGREEMENT:
        raise RuntimeError(
            f"pipeline: our picture is {distance:.1f} dB from {truth}'s, expected at least"
            f" {AGREEMENT:.0f}"
        )
    worker.loaded.notes["psnr"] = distance
