"""`pyengine bench unet` and `vae`: one call of SD 1.5's networks, random weights."""

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
from ..errors import UnavailableError
from ..models import AutoencoderKL, UNet2DConditionModel
from ..pipelines.stable_diffusion import Evaluator
from . import checkpoints, timing
from .flops import model_work
from .peers import diffusers_models, openvino_models
from .results import Result, Row
from .worker import Run, Worker

#: Relative L2 distance from diffusers that stops a benchmark.
AGREEMENT = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}
PEERS = ("diffusers", "torch.compile", "openvino")
#: openvino runs on CPUs.
CUDA_PEERS = PEERS[:2]
TOKENS = 77
#: A timestep in the middle of a schedule.
TIMESTEP = 500


@dataclass(frozen=True)
class Task:
    """One network at one size.

    kind: unet | vae. latents: side of the latents in pixels. batch: rows of the call; two for a
    picture with guidance. device, dtype: of every contestant.
    """

    kind: str
    latents: int
    batch: int
    quick: bool = False
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    @property
    def label(self) -> str:
        side = f"{self.latents}x{self.latents} latents"
        return f"{side} x {self.batch}"

    @property
    def config(self) -> dict[str, Any]:
        if self.kind == "unet":
            return checkpoints.TINY_UNET if self.quick else checkpoints.UNET
        return checkpoints.TINY_VAE if self.quick else checkpoints.VAE

    def inputs(self) -> dict[str, np.ndarray]:
        """The same at every call: sample and, for a U-Net, timestep and text."""
        random = np.random.default_rng(0)
        size = (self.batch, 4, self.latents, self.latents)
        found = {"sample": random.standard_normal(size, dtype=np.float32)}
        if self.kind == "unet":
            text = (self.batch, TOKENS, self.config["cross_attention_dim"])
            found["timestep"] = np.array(TIMESTEP, dtype=np.int64)
            found["text"] = random.standard_normal(text, dtype=np.float32)
        return found

    def work(self) -> tuple[int, int]:
        """(operations, bytes) of a call; see flops.model_work."""
        shapes = {name: array.shape for name, array in self.inputs().items()}

        def decode(model):
            z = torch.empty(shapes["sample"])
            return lambda: model.decode(z).sample

        def predict(model):
            x, context = torch.empty(shapes["sample"]), torch.empty(shapes["text"])
            context, times = model.encode_context(context), model.embed_timesteps([TIMESTEP])
            return lambda: model(x, times[0], context).sample

        if self.kind == "vae":
            return model_work(AutoencoderKL, self.config, decode)
        return model_work(UNet2DConditionModel, self.config, predict)


def ours(
    notes: dict, *, threads: int, folder: Path, kind: str, inputs: dict, device: str,
    dtype: torch.dtype, backend: str = "",
) -> Run:  # fmt: skip
    """The engine's network as a pipeline calls it: text and timesteps are prepared once a prompt.

    backend: what pyengine.ops.force takes, for the first call; "" for the op tables' own choice.
    """
    torch.set_num_threads(threads)
    ops.isa()  # loads the kernels
    begin = time.perf_counter()
    cls = UNet2DConditionModel if kind == "unet" else AutoencoderKL
    model = cls.from_pretrained(folder, device=device, dtype=dtype)
    notes["load_seconds"] = time.perf_counter() - begin
    given = on_device(inputs, device, dtype)
    force = partial(ops.force, backend) if backend else nullcontext
    if kind == "unet":
        begin = time.perf_counter()
        with force():
            context = model.encode_context(given["text"])
            times = model.embed_timesteps([TIMESTEP])
        notes["prompt_seconds"] = time.perf_counter() - begin
        evaluate = Evaluator(model)

    def call() -> np.ndarray:
        if kind == "vae":
            return to_array(model.decode(given["sample"], return_dict=False)[0])
        return to_array(evaluate(given["sample"], times[0], context))

    def run() -> np.ndarray:
        if "kernels" in notes:
            return call()
        with ops.kernels_used() as used, force():
            result = call()
        notes["kernels"] = used.summary()
        return result

    return run


def on_device(inputs: dict[str, np.ndarray], device: str, dtype: torch.dtype) -> dict[str, Any]:
    """The arrays as tensors; those of floats in `dtype`."""
    tensors = {name: torch.from_numpy(array).to(device) for name, array in inputs.items()}
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """The numbers, once they have been computed."""
    return tensor.detach().float().cpu().numpy()


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
                kernels=found.workers["pyengine"].loaded.notes.pop("kernels", {}),
                facts={name: describe(worker) for name, worker in found.workers.items()},
            )  # fmt: skip
            result.rows.append(row)
    return result


def _load(stack: ExitStack, task: Task, threads: int, peers: tuple[str, ...], folder: Path):
    """One after the other, so that no two peaks of loading coincide."""
    write = checkpoints.write_unet if task.kind == "unet" else checkpoints.write_vae
    weights = write(folder / f"{task.kind}{'-quick' if task.quick else ''}", task.quick)
    place = {"device": task.device, "dtype": task.dtype}
    arguments = {"folder": weights, "kind": task.kind, "inputs": task.inputs()}
    found = Contestants()
    found.workers["pyengine"] = stack.enter_context(
        Worker("pyengine", ours, threads, **arguments, **place)
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
    """Raises RuntimeError where a contestant is not within AGREEMENT of diffusers.

    Without diffusers the specifications in pyengine.ops.reference, in float32, take its place.
    """
    results = {name: worker.result for name, worker in found.workers.items()}
    if "diffusers" in results:
        truth, expected = "diffusers", results.pop("diffusers")
    else:
        truth = "the specification"
        arguments = {"folder": folder / f"{task.kind}{'-quick' if task.quick else ''}"}
        arguments |= {"kind": task.kind, "inputs": task.inputs(), "backend": "reference"}
        arguments |= {"device": task.device, "dtype": torch.float32}
        with Worker(truth, ours, threads, **arguments) as worker:
            expected = worker.result
    for name, got in results.items():
        distance = relative_l2(got, expected)
        if not distance <= AGREEMENT[task.dtype]:
            raise RuntimeError(
                f"{task.kind}, {task.label}: {name} is {distance:.1e} away from {truth},"
                f" expected at most {AGREEMENT[task.dtype]:.0e}"
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
        "peak_bytes": worker.peak(),
        **loaded.notes,
    }
