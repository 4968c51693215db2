"""`pyengine bench ops`: every op at the shapes of Stable Diffusion and LlamaGen."""

import inspect
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..errors import RequestError, UnavailableError
from . import timing
from .arguments import Shape, nbytes
from .contest import Contest
from .peers import flash_kmeans, ncnn_conv, torch_ops
from .results import OURS, Result, Row
from .shapes import GPU_SHAPES, SHAPES, TINY
from .worker import Worker

PEERS = ("torch", "torch.compile", "ncnn")
#: ncnn runs on CPUs, flash-kmeans on GPUs.
CUDA_PEERS = ("torch", "torch.compile", "flash-kmeans")
#: Bytes of all cold inputs: several times a CPU's caches, and five times an H200's 50 MB L2.
COLD_BYTES = 256 << 20
MAX_COPIES = 4096
#: Of ops with weights only these are cold: in a model the input was written a moment ago.
WEIGHTS = ("weight", "bias")
WEIGHTED = ("conv2d", "linear")

#: Relative L2 distance between us and torch: rounding, no more. tests/ops holds the promises.
AGREEMENT = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
#: ncnn chooses Winograd F(6x6,3x3), which rounds more.
NCNN_AGREEMENT = 1e-4
#: flash-kmeans multiplies float32 as TF32, which has 10 bits.
KMEANS_AGREEMENT = 1e-2
_Call = Callable[..., Any]
#: Bytes of weights of ncnn's whole chain of convolutions.
NCNN_BYTES = 100 << 20


def shapes(names: list[str], labels: list[str], quick: bool, on_gpu: bool = False) -> list[Shape]:
    """The shapes of the named ops (of all, if none is named) that have one of the labels, or, where
    none has it, contain it. Those for GPUs are found on a CPU where no other is.

    Raises RequestError for an op that does not exist and where nothing is left.
    """
    for name in names:
        if name not in SHAPES:
            raise RequestError(f"op: expected one of {', '.join(sorted(SHAPES))}, given {name!r}")
    usual, large = (
        [s for op, of_op in table.items() if not names or op in names for s in of_op]
        for table in ((TINY, {}) if quick else (SHAPES, GPU_SHAPES))
    )
    if on_gpu:
        usual, large = usual + large, []
    chosen = []
    for label in labels:
        some = [s for s in usual + large if s.label == label]
        some = some or [s for s in usual if label in s.label]
        some = some or [s for s in large if label in s.label]
        if not some:
            raise RequestError(f"shape: expected part of a shape's label, given {label!r}")
        chosen += some
    return chosen or usual


# --- arguments ------------------------------------------------------------------------------------


def inputs_for(
    shape: Shape, dtype: torch.dtype, device: str, cold: bool, most: int = COLD_BYTES
) -> list[dict[str, Any]]:
    """One set of arguments; cold: copies that together outgrow the caches, of weights where an op
    has them, else of everything.
    """
    first = shape.build(dtype, device)
    if not cold:
        return [first]
    moving = {k: v for k, v in first.items() if shape.op not in WEIGHTED or k in WEIGHTS}
    copies = min(MAX_COPIES, most // nbytes(moving) + 1)
    return [first, *({**first, **_clone(moving)} for _ in range(copies - 1))]


def _clone(inputs: dict[str, Any]) -> dict[str, Any]:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in inputs.items()}


def packed(op: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """The arguments as a model gives them to our op: weights packed once, at load."""
    if op not in WEIGHTED:
        return inputs
    count = {"conv2d": "out_channels", "linear": "out_features"}[op]
    if count not in inspect.signature(getattr(ops, op)).parameters:  # it takes plain weights only
        return inputs
    weight = inputs["weight"]
    return {**inputs, "weight": ops.pack_weight(weight), count: weight.shape[0]}


def compared(op: str, inputs: dict[str, Any], result: Any) -> Any:
    """The part of an op's result in which implementations must agree: of vq_argmin the distances to
    the chosen entries, since of two equally near ones either is right.
    """
    if op != "vq_argmin":
        return result
    found = inputs["codebook"][result.view(-1).long()].double()
    return (inputs["x"].double().view_as(found) - found).norm(dim=-1)


def check(name: str, got: Any, want: Any, most: float) -> None:
    """Raises RuntimeError where results differ by more than `most`, relative L2."""
    pairs = [(got, want)] if isinstance(want, Tensor) else list(zip(got, want, strict=False))
    for one, other in pairs:
        one, other = one.double(), other.double()
        distance = ((one - other).norm() / other.norm()).item()
        if not distance <= most:
            raise RuntimeError(
                f"{name} is {distance:.1e} away from torch, expected at most {most:.0e}"
            )


# --- measuring ------------------------------------------------------------------------------------


@torch.no_grad()
def measure(contest: Contest, chosen: list[Shape]) -> Result:
    """Every shape, hot and cold; correctness first."""
    result = Result()
    for shape in chosen:
        contest.say(str(shape))
        result.rows += rows(contest, shape, result.missing)
    return result


def rows(contest: Contest, shape: Shape, missing: dict[str, str]) -> list[Row]:
    """The rows of one shape, hot and cold. missing: filled with reasons, by peer."""
    eager, ours = torch_ops.EAGER[shape.op], getattr(ops, shape.op)
    inputs = shape.build(contest.dtype, contest.device)

    def agree(name: str, got: Any, most: float = AGREEMENT[contest.dtype]) -> None:
        check(f"{shape}: {name}", compared(shape.op, inputs, got), expected, most)

    result = eager(**inputs)
    expected = compared(shape.op, inputs, result)
    with ops.kernels_used() as used:
        got = ours(**packed(shape.op, inputs))
    agree(OURS, got)
    moved = nbytes(inputs) + nbytes(got)
    functions, facts = _peers(contest, shape, inputs, agree, missing)
    found = []
    for cold in (False, True):
        most = 1 << 12 if contest.quick else COLD_BYTES
        sets = inputs_for(shape, contest.dtype, contest.device, cold, most)
        ready = [packed(shape.op, one) for one in sets]
        samplers = {OURS: timing.recorded(ours, ready, contest.device)}
        samplers |= {
            name: timing.recorded(function, [arguments(one) for one in sets], contest.device)
            for name, (function, arguments) in functions.items()
        }
        with ExitStack() as stack:
            if "ncnn" in contest.peers and cold and shape.op == "conv2d":
                _add_ncnn(stack, samplers, inputs, result, contest.threads, missing)
            measured = contest.times(samplers)
        found.append(
            Row(
                suite="ops",
                name=shape.op,
                shape=shape.label,
                inputs="cold" if cold else "hot",
                flops=shape.flops,
                nbytes=moved,
                kernels=used.summary(),
                facts={} if cold else facts,
                **measured,
            )
        )
    return found


def _peers(
    contest: Contest,
    shape: Shape,
    inputs: dict[str, Any],
    agree: Callable[..., None],
    missing: dict[str, str],
) -> tuple[dict[str, tuple[_Call, _Call]], dict[str, dict[str, Any]]]:
    """Peers that compute in this process, after `agree` has checked their results.

    Returns (name -> (its function, what converts our arguments to its), name -> facts).
    """
    functions: dict[str, tuple[_Call, _Call]] = {}
    facts: dict[str, dict[str, Any]] = {}
    if "torch" in contest.peers:
        functions["torch"] = torch_ops.EAGER[shape.op], dict
    if "torch.compile" in contest.peers:
        compiled = torch_ops.compiled(shape.op, contest.device)
        begin = time.perf_counter()
        got = compiled(**inputs)
        facts["torch.compile"] = {"compile_seconds": time.perf_counter() - begin}
        agree("torch.compile", got)
        functions["torch.compile"] = compiled, dict
    if "flash-kmeans" in contest.peers and shape.op == "vq_argmin":
        try:
            assign = flash_kmeans.load()
        except UnavailableError as e:
            missing["flash-kmeans"] = str(e)
        else:
            agree("flash-kmeans", assign(**flash_kmeans.arguments(inputs)), KMEANS_AGREEMENT)
            functions["flash-kmeans"] = assign, flash_kmeans.arguments
    return functions, facts


def _add_ncnn(
    stack: ExitStack,
    samplers: dict[str, timing.Sampler],
    inputs: dict[str, Any],
    expected: Tensor,
    threads: int,
    missing: dict[str, str],
) -> None:
    """Adds a worker in which ncnn runs a chain of convolutions a call, where it supports them."""
    if not ncnn_conv.supports(inputs):
        return
    length = NCNN_BYTES // inputs["weight"].nbytes + 1
    arrays = {name: inputs[name].float().numpy() for name in ("x", "weight", "bias")}
    try:
        worker = stack.enter_context(
            Worker("ncnn", ncnn_conv.chain, threads, length=length, **arrays)
        )
    except UnavailableError as e:
        missing["ncnn"] = str(e)
        return
    check("conv2d: ncnn", torch.from_numpy(worker.result), expected.float(), NCNN_AGREEMENT)
    samplers["ncnn"] = lambda calls: worker.sample(max(1, calls // length)) / length
