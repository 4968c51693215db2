"""`pyengine bench unet` and `vae`: one call of SD 1.5's or SDXL's networks, random weights."""

import math
import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import ops
from ..diffusion.evaluator import Evaluator
from ..errors import UnavailableError
from ..models import AutoencoderKL, UNet2DConditionModel
from . import checkpoints, timing
from .flops import model_work
from .peers import diffusers_models, openvino_models
from .results import OURS, Result, Row
from .worker import Run, Worker

#: Relative L2 distance from diffusers that stops a benchmark, by model and dtype, and, below, that
#: of our linear layers in e4m3. What rounding does to networks of random weights, a fifth as wide,
#: on the CPU: diffusers' result in bfloat16 is 0.019 from its own in float32 for SD 1.5 and 0.031
#: for SDXL, behind 70 transformer blocks, ours 0.017 and 0.032, the two 0.019 and 0.033 from each
#: other; with weights and their inputs in e4m3, a scale a row, ours is 0.12 and 0.27.
AGREEMENT = {
    "sd15": {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2},
    "sdxl": {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2},
}
FP8_AGREEMENT = {"sd15": 0.18, "sdxl": 0.4}
PEERS = ("diffusers", "torch.compile", "openvino")
#: openvino runs on CPUs.
CUDA_PEERS = PEERS[:2]
#: The models that `--model` takes, as people call them.
NAMES = {"sd15": "SD 1.5", "sdxl": "SDXL"}
TOKENS = 77
#: A timestep in the middle of a schedule.
TIMESTEP = 500


@dataclass(frozen=True)
class Task:
    """One network at one size.

    kind: unet | vae. latents: side of the latents in pixels. batch: rows of the call; two for a
    picture with guidance. device, dtype: of every contestant. model: one of checkpoints.UNETS.
    weights: how ours lie in memory, "fp8" or None for as the dtype says.
    """

    kind: str
    latents: int
    batch: int
    quick: bool = False
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    model: str = "sd15"
    weights: str | None = None

    @property
    def label(self) -> str:
        model = f"{NAMES[self.model]}, " if self.kind == "unet" else ""
        stored = f", our weights in {self.weights}" if self.weights else ""
        return f"{model}{self.latents}x{self.latents} latents x {self.batch}{stored}"

    @property
    def config(self) -> dict[str, Any]:
        if self.kind == "unet":
            return checkpoints.UNETS[self.model][self.quick]
        return checkpoints.TINY_VAE if self.quick else checkpoints.VAE

    def write(self, folder: Path) -> Path:
        """The checkpoint, in a folder of its own within `folder`, unless it is there.

        SDXL's is float16, as it is published; in float32 it would be 10 GB.
        """
        model = f"-{self.model}" if self.model != "sd15" else ""
        place = folder / f"{self.kind}{model}{'-quick' if self.quick else ''}"
        if self.kind == "vae":
            return checkpoints.write_vae(place, self.quick)
        dtype = torch.float16 if self.model == "sdxl" else torch.float32
        return checkpoints.write_unet(place, self.quick, dtype, self.model)

    def inputs(self) -> dict[str, np.ndarray]:
        """The same at every call: sample and, for a U-Net, timestep and text, and what else it is
        told of the text and of the picture's size.
        """
        random = np.random.default_rng(0)
        size = (self.batch, 4, self.latents, self.latents)
        found = {"sample": random.standard_normal(size, dtype=np.float32)}
        if self.kind == "unet":
            text = (self.batch, TOKENS, self.config["cross_attention_dim"])
            found["timestep"] = np.array(TIMESTEP, dtype=np.int64)
            found["text"] = random.standard_normal(text, dtype=np.float32)
        if self.config.get("addition_embed_type") == "text_time":
            width = self.config["projection_class_embeddings_input_dim"]
            width -= 6 * self.config["addition_time_embed_dim"]
            found["text_embeds"] = random.standard_normal((self.batch, width), dtype=np.float32)
            pixels = 8 * self.latents  # of the picture, of what is cropped from it, of the result
            ids = [[pixels, pixels, 0, 0, pixels, pixels]] * self.batch
            found["time_ids"] = np.array(ids, dtype=np.float32)
        return found

    def work(self) -> tuple[int, int]:
        """(operations, bytes) of a call; see flops.model_work."""
        shapes = {name: array.shape for name, array in self.inputs().items()}

        def decode(model):
            z = torch.empty(shapes["sample"])
            return lambda: model.decode(z).sample

        def predict(model):
            given = {name: torch.empty(shape) for name, shape in shapes.items()}
            times = model.embed_timesteps([TIMESTEP], added_cond_kwargs=conditions(given))
            context = model.encode_context(given["text"])
            return lambda: model(given["sample"], times[0], context).sample

        if self.kind == "vae":
            return model_work(AutoencoderKL, self.config, decode, self.dtype.itemsize)
        return model_work(UNet2DConditionModel, self.config, predict, self.dtype.itemsize)


def ours(
    notes: dict, *, threads: int, folder: Path, kind: str, inputs: dict, device: str,
    dtype: torch.dtype, weights: str | None = None, backend: str = "",
) -> Run:  # fmt: skip
    """The engine's network as a pipeline calls it: text and timesteps are prepared once a prompt,
    and on a GPU a call is a CUDA graph.

    backend: what pyengine.ops.force takes, for the first call; "" for the op tables' own choice.
    """
    torch.set_num_threads(threads)
    ops.isa()  # loads the kernels
    begin = time.perf_counter()
    cls = UNet2DConditionModel if kind == "unet" else AutoencoderKL
    stored = {"weights": weights} if weights else {}
    model = cls.from_pretrained(folder, device=device, dtype=dtype, **stored)
    notes["load_seconds"] = time.perf_counter() - begin
    given = on_device(inputs, device, dtype)
    force = partial(ops.force, backend) if backend else nullcontext
    if kind == "unet":
        begin = time.perf_counter()
        with force():
            context = model.encode_context(given["text"])
            times = model.embed_timesteps([TIMESTEP], added_cond_kwargs=conditions(given))[0]
        notes["prompt_seconds"] = time.perf_counter() - begin
        # Not as a graph where a backend is forced: specifications may wait for the GPU.
        evaluate = (lambda *given: model(*given).sample) if backend else Evaluator(model)

    def call() -> torch.Tensor:
        if kind == "vae":
            return model.decode(given["sample"]).sample
        return evaluate(given["sample"], times, context)

    def run() -> torch.Tensor:
        if "kernels" in notes:
            return call()
        with ops.kernels_used() as used, force():
            result = call()
        notes["kernels"] = used.summary()
        return result

    return run


def conditions(given: dict[str, Any]) -> dict[str, Any] | None:
    """What a U-Net is told besides text and timestep: SDXL's added_cond_kwargs; None for others."""
    found = {name: given[name] for name in ("text_embeds", "time_ids") if name in given}
    return found or None


def on_device(inputs: dict[str, np.ndarray], device: str, dtype: torch.dtype) -> dict[str, Any]:
    """The arrays as tensors; those of floats in `dtype`."""
    tensors = {name: torch.from_numpy(array).to(device) for name, array in inputs.items()}
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}


@dataclass
class Contestants:
    """Workers that loaded, their first results, and why others did not."""

    workers: dict[str, Worker] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def try_(self, stack: ExitStack, name: str, make, threads: int, **arguments) -> None:
        try:
            self.workers[name] = stack.enter_context(Worker(name, make, threads, **arguments))
        except UnavailableError as e:
            self.missing[name] = str(e)


def measure(
    tasks: list[Task], *, threads: int, rounds: int, peers: tuple[str, ...], folder: Path,
    limits: timing.LimitsOfThisMinute, say,
) -> Result:  # fmt: skip
    """Every task, peers beside us. folder: for weights and converted models, kept if they fit."""
    result = Result()
    for task in tasks:
        say(f"{task.kind}, {task.label}: loading")
        with ExitStack() as stack:
            found = _load(stack, task, threads, peers, folder)
            result.missing |= found.missing
            check(found, task, threads, folder)
            say(f"{task.kind}, {task.label}: measuring {', '.join(found.workers)}")
            samplers = {name: worker.sample for name, worker in found.workers.items()}
            now, times = timing.contest(samplers, rounds, limits)
            flops, nbytes = task.work()
            row = Row(
                suite=task.kind, name=task.kind, shape=task.label, inputs="", flops=flops,
                nbytes=nbytes, limits=now, times=times,
                kernels=found.workers[OURS].loaded.notes.pop("kernels", {}),
                facts={name: describe(worker) for name, worker in found.workers.items()},
            )  # fmt: skip
            result.rows.append(row)
    return result


def _load(stack: ExitStack, task: Task, threads: int, peers: tuple[str, ...], folder: Path):
    """One after the other, so that no two peaks of loading coincide."""
    place = {"device": task.device, "dtype": task.dtype}
    arguments = {"folder": task.write(folder), "kind": task.kind, "inputs": task.inputs()}
    found = Contestants()
    found.workers[OURS] = stack.enter_context(
        Worker(OURS, ours, threads, weights=task.weights, **arguments, **place)
    )  # not try_: without us there is nothing to measure
    if "diffusers" in peers:
        found.try_(stack, "diffusers", diffusers_models.eager, threads, **arguments, **place)
    if "torch.compile" in peers:
        compiled = diffusers_models.compiled
        found.try_(stack, "torch.compile", compiled, threads, **arguments, **place)
    if "openvino" in peers:
        _load_openvino(stack, found, task, threads, arguments)
    return found


def _load_openvino(stack, found: Contestants, task: Task, threads: int, arguments: dict) -> None:
    """Converts in a process that ends before the one that is measured begins."""
    to = arguments["folder"] / f"openvino-{task.latents}-{task.batch}.xml"
    with ExitStack() as brief:
        first = Contestants()
        first.try_(brief, "openvino", openvino_models.convert, threads, to=to, **arguments)
        found.missing |= first.missing
        converting = {name: w.loaded.notes for name, w in first.workers.items()}
    if not converting:
        return
    given = {"inputs": arguments["inputs"], "converted": to}
    found.try_(stack, "openvino", openvino_models.static, threads, **given)
    if "openvino" in found.workers:
        found.workers["openvino"].loaded.notes |= converting["openvino"]


def check(found: Contestants, task: Task, threads: int, folder: Path) -> None:
    """Raises RuntimeError where a contestant is not within AGREEMENT of diffusers, or we, with our
    weights in e4m3, not within FP8_AGREEMENT.

    Without diffusers the specifications in pyengine.ops.reference, in float32, take its place.
    """
    results = {name: worker.result for name, worker in found.workers.items()}
    if "diffusers" in results:
        truth, expected = "diffusers", results.pop("diffusers")
    else:
        truth = "the specification"
        arguments = {"folder": task.write(folder), "kind": task.kind, "inputs": task.inputs()}
        arguments |= {"device": task.device, "dtype": torch.float32, "backend": "reference"}
        with Worker(truth, ours, threads, **arguments) as worker:
            expected = worker.result
    for name, got in results.items():
        distance, most = relative_l2(got, expected), AGREEMENT[task.model][task.dtype]
        if name == OURS and task.weights == "fp8":
            most = FP8_AGREEMENT[task.model]
        if not distance <= most:
            raise RuntimeError(
                f"{task.kind}, {task.label}: {name} is {distance:.1e} away from {truth},"
                f" expected at most {most:.0e}"
            )
        found.workers[name].loaded.notes["relative_l2"] = distance


def relative_l2(got: np.ndarray, expected: np.ndarray) -> float:
    """inf where shapes differ or anything is not finite."""
    if got.shape != expected.shape or not np.isfinite(got).all():
        return math.inf
    expected = expected.astype(np.float64)
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def describe(worker: Worker) -> dict[str, Any]:
    """Seconds of loading and of the first call, the most memory held, and its own notes."""
    loaded = worker.loaded
    return {
        "load_seconds": loaded.load_seconds,
        "first_call_seconds": loaded.first_call_seconds,
        **worker.peaks(),
        **loaded.notes,
    }
