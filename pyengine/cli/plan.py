"""`pyengine info --plan`: what the CPU computes for a picture, told without weights or running."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import RequestError
from ..ops._core import DTYPES, core
from ..ops._op import Call, planned
from ..ops.reference.linear import GATED
from ..pipelines.loading import find_checkpoint
from ..pipelines.registry import family_of
from ..weights import Checkpoint, TensorSource
from ..weights.layout import find
from ..weights.source import MappedSource
from .info import show_plain

#: Floating-point operations per byte from which a step is called bound by computing: about what two
#: Zen 3 cores (190 GFLOP/s, 25 GB/s) and most other CPUs have.
BALANCE = 8
#: Multiplications that Winograd's algorithms save.
SAVED = {"winograd4": 4.0, "winograd2": 2.25}
NARROW = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Step:
    """One op of a plan.

    part, layer: where it stands, as the checkpoint names it. shape: of its result. algorithm: that
    a convolution chose, else "". gflop: by the op's definition, a multiplication and an addition
    counting as two. mbytes: inputs, weights and results, each moved once. bound: "compute" or
    "memory", whichever takes longer at BALANCE operations per byte.
    """

    part: str
    layer: str
    op: str
    shape: tuple[int, ...]
    algorithm: str
    gflop: float
    mbytes: float
    bound: str


def run(
    model: str | None,
    variant: str | None,
    height: int | None,
    width: int | None,
    batch: int,
    as_json: bool,
    ignored: list[str] | None = None,
) -> int:
    checkpoint, source = find_checkpoint(model, variant, {"ignore_config_keys": ignored or ()})
    steps = plan(checkpoint, source, height, width, batch)
    totals = summarise(steps)
    if as_json:
        facts = {"model": source, "isa": core().isa(), "batch": batch, "parts": totals}
        print(json.dumps({**facts, "steps": [asdict(step) for step in steps]}))
        return 0
    print(f"{show_plain(source)} on cpu-{core().isa()}, an evaluation of {batch} rows")
    lines = [("layer", "op", "result", "algorithm", "GFLOP", "MB", "bound")]
    lines += [
        (
            f"{s.part}.{s.layer}".rstrip("."),
            s.op,
            "x".join(map(str, s.shape)),
            s.algorithm,
            f"{s.gflop:.3f}",
            f"{s.mbytes:.2f}",
            s.bound,
        )
        for s in steps
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [
            c.rjust(w) if i in (4, 5) else c.ljust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    for part, total in totals.items():
        print(
            f"{part}: {total['steps']} steps, {total['gflop']:.1f} GFLOP, {total['mbytes']:.0f} MB,"
            f" {total['compute_bound']:.0%} of it bound by computing"
        )
    return 0


def summarise(steps: list[Step]) -> dict[str, dict[str, float]]:
    """Per part: steps, gflop, mbytes, and the share of gflop in steps bound by computing."""
    totals = {}
    for part in dict.fromkeys(step.part for step in steps):
        own = [step for step in steps if step.part == part]
        gflop = sum(step.gflop for step in own)
        computing = sum(step.gflop for step in own if step.bound == "compute")
        totals[part] = {
            "steps": len(own),
            "gflop": gflop,
            "mbytes": sum(step.mbytes for step in own),
            "compute_bound": computing / gflop if gflop else 0.0,
        }
    return totals


def plan(
    checkpoint: Checkpoint, source: str, height: int | None, width: int | None, batch: int
) -> list[Step]:
    """The ops of encoding `batch` prompts, one evaluation and decoding one picture, in order.

    height, width: pixels; the model's own size where None. Reads configs and tensor headers only.
    """
    kind = checkpoint.pipeline_class
    family = family_of(kind)
    if family.rehearse is None:
        raise RequestError(
            f"plan: {source} is a {kind}: expected a diffusion model, a GAN or an"
            " upscaler, whose evaluations are all alike"
        )
    models = {}
    for name in checkpoint.models:
        data, tensors = checkpoint.component(name)
        network = family.parts[name].network_of(data)
        config = network.config_class.from_dict(data, f"{source}: {name}/config.json")
        models[name] = network.from_config(config)
        store_as(models[name], tensors)
        models[name].pack()
    steps: list[Step] = []
    with torch.no_grad():
        for name, work in find(family.rehearse)(models, batch, height, width):
            with recorded(steps, name, models[name]):
                work()
    return steps


def store_as(model: nn.Module, tensors: TensorSource | MappedSource) -> None:
    """Gives the weights that stay as stored the dtype that most are stored in."""
    counts: dict[torch.dtype, int] = {}
    for name in tensors.keys():  # noqa: SIM118 - no dict
        dtype, shape = tensors.spec(name)
        if len(shape) > 1:
            counts[dtype] = counts.get(dtype, 0) + math.prod(shape)
    stored = max(counts, key=lambda dtype: counts[dtype], default=torch.float32)
    if stored not in NARROW:
        return
    for module in model.modules():
        for name in getattr(module, "WIDENED", ()):
            weight = torch.empty_like(getattr(module, name), dtype=stored)
            setattr(module, name, nn.Parameter(weight, requires_grad=False))


@contextmanager
def recorded(steps: list[Step], part: str, model: nn.Module) -> Iterator[None]:
    """Adds a Step for every op that `model` calls, under the name of the layer that called it."""
    inside = [""]
    hooks = []
    for path, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda m, a, path=path: inside.append(path)))
        hooks.append(module.register_forward_hook(lambda m, a, y: inside.pop() and None))
    try:
        with planned(lambda call: steps.append(describe(part, inside[-1], call))):
            yield
    finally:
        for hook in hooks:
            hook.remove()


# --- what a call costs ----------------------------------------------------------------------------


def describe(part: str, layer: str, call: Call) -> Step:
    op, arguments, results = call
    results = results if isinstance(results, tuple) else (results,)
    tensors = [t for t in (*arguments.values(), *results) if isinstance(t, Tensor)]
    moved = sum(t.numel() * t.dtype.itemsize for t in tensors)
    flop = operations(op.name, arguments, results[0])
    algorithm = conv_algorithm(arguments, results[0]) if op.name == "conv2d" else ""
    computed = flop / SAVED.get(algorithm, 1.0)
    bound = "compute" if computed > BALANCE * moved else "memory"
    shape = tuple(results[0].shape)
    return Step(part, layer, op.name, shape, algorithm, flop / 1e9, moved / 1e6, bound)


def operations(op: str, a: dict[str, Any], y: Tensor) -> int:
    """Multiplications and additions; a few per element for what is no product."""
    if op == "linear":
        channels = a["x"].shape[-1] + (0 if a["x2"] is None else a["x2"].shape[-1])
        return int(2 * y.numel() * channels * (2 if a["activation"] in GATED else 1))
    if op == "conv2d":
        taps = math.prod(a["weight"].shape[1:4])
        # An output of a transposed one takes a quarter of the taps.
        return int(2 * y.numel() * (taps // 4 if a["transposed"] else taps))
    if op == "attention":
        n, queries, width = a["q"].shape
        return int(2 * n * queries * a["k"].shape[1] * (width + a["v"].shape[2]))
    return int(8 * (a["x"].numel() + (a["x2"].numel() if a.get("x2") is not None else 0)))


def conv_algorithm(a: dict[str, Any], y: Tensor) -> str:
    """The choice of csrc/core/conv/algorithm.cc, asked for this shape."""
    weight = a["weight"]
    shape = core().ConvShape(
        height_out=y.shape[1],
        width_out=y.shape[2],
        channels=weight.shape[3],
        channels_out=y.shape[3],
        kernel_height=weight.shape[1],
        kernel_width=weight.shape[2],
        stride=a["stride"],
        upsample=a["upsample"],
        weight_dtype=DTYPES[weight.dtype],
        dtype=DTYPES[a["x"].dtype],
    )
    chosen: str = core().conv2d_algorithm(shape)
    return chosen
