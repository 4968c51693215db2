"""`pyengine bench unet` and `vae`: one call of SD 1.5's or SDXL's networks, random weights."""

import math
import time
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .. import ops
from ..diffusion.evaluator import Evaluator
from ..models import AutoencoderKL, UNet2DConditionModel, UNet2DModel
from .contest import Contest, Contestants, relative_l2
from .peers import diffusers_models, openvino_int8, openvino_models
from .results import OURS, Result
from .tasks import TIMESTEP, Task, beside_text, beside_times, on_device
from .worker import Notes, Run, Worker, loading

#: Relative L2 distance from diffusers in float32 that stops a benchmark, by model and dtype, and,
#: below, that of our linear layers in e4m3. What rounding does to networks of random weights, a
#: fifth as wide, on the CPU: diffusers' result in bfloat16 is 0.019 from its own in float32 for
#: SD 1.5 and 0.031 for SDXL, behind 70 transformer blocks, ours 0.017 and 0.032; with weights and
#: their inputs in e4m3, a scale a row, ours is 0.12 and 0.27.
AGREEMENT = {
    "sd15": {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2},
    "sdxl": {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2},
    # At its full width ours is 0.0011 and 0.0091 from float32, diffusers' 0.0014 and 0.0114.
    "ddpm": {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 2e-2},
    "unclip": {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2},
    "if": {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2},
}
FP8_AGREEMENT = {"sd15": 0.18, "sdxl": 0.4}
#: The same of our layers in int8.
INT8_AGREEMENT = {"sd15": 0.1, "sdxl": 0.2}
#: OpenVINO without a hint of a precision, where that is another than it is given otherwise: on CPUs
#: that multiply bfloat16 it computes in that, unasked.
BY_ITSELF = "openvino by itself"
PEERS = ("diffusers", "torch.compile", "openvino")
#: openvino runs on CPUs.
CUDA_PEERS = PEERS[:2]


def ours(
    notes: Notes,
    *,
    threads: int,
    folder: Path,
    kind: str,
    inputs: dict[str, Any],
    device: str,
    dtype: torch.dtype,
    weights: str | None = None,
    backend: str = "",
) -> Run:
    """The engine's network as a pipeline calls it: text and timesteps are prepared once a prompt,
    and on a GPU a call is a CUDA graph.

    backend: for pyengine.ops.force in the first call; "" leaves the choice to the op tables.
    """
    unet = UNet2DConditionModel if "text" in inputs else UNet2DModel
    cls = unet if kind == "unet" else AutoencoderKL
    stored = {"weights": weights} if weights else {}
    with loading(notes, threads):
        model: Any = cls.from_pretrained(folder, device=device, dtype=dtype, **stored)
    given = on_device(inputs, device, dtype)
    force = partial(ops.force, backend) if backend else nullcontext
    if kind == "unet":
        begin = time.perf_counter()
        with force():
            context = model.encode_context(given.get("text"), **beside_text(given))
            times = model.embed_timesteps([TIMESTEP], **beside_times(given, model.config))[0]
        notes["prompt_seconds"] = time.perf_counter() - begin
        # Not as a graph where a backend is forced: specifications may wait for the GPU.
        evaluate: Any = model.evaluate if backend else Evaluator(model)

    def call() -> Any:
        if kind == "vae":
            return model.decode(given["sample"]).sample
        return evaluate(given["sample"], times, context)

    def run() -> Any:
        if "kernels" in notes:
            return call()
        with ops.kernels_used() as used, force():
            result = call()
        notes["kernels"] = used.summary()
        return result

    return run


def measure(contest: Contest, tasks: list[Task]) -> Result:
    """A row for every task."""
    result = Result()
    for task in tasks:
        contest.say(f"{task.kind}, {task.label}: loading")
        with ExitStack() as stack:
            arguments = {"folder": task.write(contest.folder), "kind": task.kind}
            arguments["inputs"] = task.inputs()
            found = _load(stack, contest, task, arguments)
            result.missing |= found.missing
            check(found, task, contest.threads, arguments)
            contest.say(f"{task.kind}, {task.label}: measuring {', '.join(found.workers)}")
            flops, nbytes = task.work()
            row = contest.row(
                found.workers,
                suite=task.kind,
                name=task.kind,
                shape=task.label,
                flops=flops,
                nbytes=nbytes,
            )
            result.rows.append(row)
    return result


def _load(stack: ExitStack, contest: Contest, task: Task, arguments: dict[str, Any]) -> Contestants:
    """Loads one after another, so that peaks of memory do not add up."""
    peers, threads = contest.peers, contest.threads
    placed = {**arguments, "device": task.device, "dtype": task.dtype}
    found = Contestants()
    found.load(stack, OURS, ours, threads, weights=task.weights, **placed)
    if "diffusers" in peers:
        found.try_(stack, "diffusers", diffusers_models.eager, threads, **placed)
    if "torch.compile" in peers:
        found.try_(stack, "torch.compile", diffusers_models.compiled, threads, **placed)
    if "openvino" in peers and task.converts:
        _load_openvino(stack, found, task, threads, arguments)
    return found


def _load_openvino(
    stack: ExitStack, found: Contestants, task: Task, threads: int, arguments: dict[str, Any]
) -> None:
    """Converts in a process of its own, which ends before that of the contestant starts; where ours
    is in int8, NNCF rounds what was converted.
    """
    to = arguments["folder"] / f"openvino-{task.latents}-{task.batch}.xml"
    with ExitStack() as brief:
        first = Contestants()
        first.try_(brief, "openvino", openvino_models.convert, threads, to=to, **arguments)
        found.missing |= first.missing
        converting = {name: w.loaded.notes for name, w in first.workers.items()}
    if not converting:
        return
    if task.weights == "int8":
        narrow = to.with_stem(f"{to.stem}-int8")
        with ExitStack() as brief:
            given = {"converted": to, "inputs": arguments["inputs"], "to": narrow}
            first.try_(brief, "openvino", openvino_int8.quantize, threads, **given)
        if first.missing:
            found.missing |= first.missing
            return
        to = narrow
    precision = {torch.bfloat16: "bf16", torch.float16: "f16"}.get(task.dtype, "f32")
    given = {"inputs": arguments["inputs"], "converted": to}
    chosen: tuple[tuple[str, dict[str, Any]], ...] = (("openvino", {"precision": precision}),)
    if precision == "f32":
        chosen += ((BY_ITSELF, {"precision": None, "other_than": precision}),)
    for name, how in chosen:
        found.try_(stack, name, openvino_models.static, threads, **given, **how)
        if name in found.workers:
            found.workers[name].loaded.notes |= converting["openvino"]


def check(found: Contestants, task: Task, threads: int, arguments: dict[str, Any]) -> None:
    """Notes each contestant's distance from the reference: diffusers' result in float32, or that of
    our specifications where diffusers is no contestant. Raises RuntimeError where it is more than
    `_limit`, or where a result is of another shape or not finite.

    arguments: of our maker.
    """
    name, expected = _reference(found, task, threads, arguments)
    for contestant, worker in found.workers.items():
        if contestant == name:
            continue
        distance, limit = relative_l2(worker.result, expected), _limit(contestant, task)
        if not (distance <= limit and math.isfinite(distance)):
            raise RuntimeError(
                f"{task.kind}, {task.label}: {contestant} is {distance:.1e} away from {name},"
                f" expected at most {limit:.0e}"
            )
        worker.loaded.notes["relative_l2"] = distance


def _reference(
    found: Contestants, task: Task, threads: int, arguments: dict[str, Any]
) -> tuple[str, Any]:
    """Whose result is the expected one, and that result."""
    exact = {**arguments, "device": task.device, "dtype": torch.float32}
    if task.dtype is torch.float32 or "diffusers" not in found.workers:
        return found.truth("diffusers", ours, threads, **exact)
    with Worker("diffusers", diffusers_models.eager, threads, **exact) as worker:
        return "diffusers in float32", worker.result


def _limit(name: str, task: Task) -> float:
    """Most relative L2 distance. How much OpenVINO rounds, where it may, is its own choice: that is
    told, and stops nothing.
    """
    if name == OURS and task.weights == "fp8":
        return FP8_AGREEMENT[task.model]
    if name == OURS and task.weights == "int8":
        return INT8_AGREEMENT[task.model]
    rounds = name == BY_ITSELF or task.weights == "int8" or task.dtype is not torch.float32
    if name in ("openvino", BY_ITSELF) and rounds:
        return math.inf
    return AGREEMENT[task.model][task.dtype]
