"""`pyengine bench ops`: every op at the shapes of Stable Diffusion 1.5."""

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
from .peers import ncnn_conv, torch_ops
from .results import OURS, Result, Row
from .shapes import SHAPES, TINY, Shape, nbytes
from .worker import Worker

PEERS = ("torch", "torch.compile", "ncnn")
#: Cold inputs together: several times any cache here, and an H200's 50 MB L2 five times.
COLD_BYTES = 256 << 20
MAX_COPIES = 4096
#: Ops with weights: cold are these, while what they work on was written a moment ago.
WEIGHTS = ("weight", "bias")
WEIGHTED = ("conv2d", "linear")

#: Relative L2 distance between us and torch: rounding, no more. tests/ops holds the promises.
AGREEMENT = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
#: ncnn's Winograd F(6x6,3x3) is allowed more: it is the peer's own choice.
NCNN_AGREEMENT = 1e-4
#: Weights that ncnn's chain of convolutions has together.
NCNN_BYTES = 100 << 20


def shapes(names: list[str], labels: list[str], quick: bool) -> list[Shape]:
    """The shapes of the named ops (of all, if none is named) that have one of the labels, or, where
    none has it, contain it.

    Raises RequestError for an op that does not exist and where nothing is left.
    """
    for name in names:
        if name not in SHAPES:
            raise RequestError(f"op: expected one of {', '.join(sorted(SHAPES))}, given {name!r}")
    all_shapes = TINY if quick else SHAPES
    found = [s for op, of_op in all_shapes.items() if not names or op in names for s in of_op]
    chosen = []
    for label in labels:
        some = [s for s in found if s.label == label] or [s for s in found if label in s.label]
        if not some:
            raise RequestError(f"shape: expected part of a shape's label, given {label!r}")
        chosen += some
    return chosen or found


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
def measure(
    chosen: list[Shape], *, dtype: torch.dtype, device: str, threads: int, rounds: int,
    peers: tuple[str, ...], quick: bool, limits: timing.LimitsOfThisMinute,
    say: Callable[[str], None],
) -> Result:  # fmt: skip
    """Every shape, hot and cold; correctness first."""
    result = Result()
    for shape in chosen:
        say(str(shape))
        result.rows += _rows(
            shape, dtype, device, threads, rounds, peers, quick, limits, result.missing
        )
    return result


def _rows(shape, dtype, device, threads, rounds, peers, quick, limits, missing) -> list[Row]:
    eager, ours = torch_ops.EAGER[shape.op], getattr(ops, shape.op)
    inputs = shape.build(dtype, device)
    expected = eager(**inputs)
    with ops.kernels_used() as used:
        got = ours(**packed(shape.op, inputs))
    check(f"{shape}: {OURS}", got, expected, AGREEMENT[dtype])
    functions: dict[str, Callable] = {"torch": eager} if "torch" in peers else {}
    facts: dict[str, dict[str, Any]] = {}
    if "torch.compile" in peers:
        functions["torch.compile"] = torch_ops.compiled(shape.op, device)
        begin = time.perf_counter()
        got = functions["torch.compile"](**inputs)
        facts["torch.compile"] = {"compile_seconds": time.perf_counter() - begin}
        check(f"{shape}: torch.compile", got, expected, AGREEMENT[dtype])
    rows = []
    for cold in (False, True):
        sets = inputs_for(shape, dtype, device, cold, 1 << 12 if quick else COLD_BYTES)
        ready = [packed(shape.op, one) for one in sets]
        samplers = {OURS: timing.sampler(ours, ready, device)}
        samplers |= {n: timing.sampler(f, sets, device) for n, f in functions.items()}
        with ExitStack() as stack:
            if "ncnn" in peers and cold and shape.op == "conv2d" and device == "cpu":
                _add_ncnn(stack, samplers, inputs, expected, threads, missing)
            now, times = timing.contest(samplers, rounds, limits)
        rows.append(
            Row(
                suite="ops",
                name=shape.op,
                shape=shape.label,
                inputs="cold" if cold else "hot",
                flops=shape.flops,
                nbytes=nbytes(inputs) + nbytes(expected),
                limits=now,
                times=times,
                kernels=used.summary(),
                facts={} if cold else facts,
            )
        )
    return rows


def _add_ncnn(stack, samplers: dict, inputs: dict, expected, threads: int, missing: dict) -> None:
    """A process in which ncnn convolves several times a call, where it can."""
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
