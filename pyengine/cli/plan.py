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
from ..models import AutoencoderKL, CLIPTextModel, CLIPTextModelWithProjection, UNet2DConditionModel
from ..ops._core import DTYPES, core
from ..ops._op import Call, planned
from ..ops.reference.linear import GATED
from ..pipelines.loading import find_checkpoint
from ..weights import Checkpoint, TensorSource
from .info import CONFIGS, show_plain

CLASSES = {
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
}
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
    print(f"{show_plain(source)} on cpu-{core().isa()}, a U-Net call of {batch} rows")
    lines = [("layer", "op", "result", "algorithm", "GFLOP", "MB", "bound")]
    lines += [
        (f"{s.part}.{s.layer}".rstrip("."), s.op, "x".join(map(str, s.shape)), s.algorithm,
         f"{s.gflop:.3f}", f"{s.mbytes:.2f}", s.bound)
        for s in steps
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [c.rjust(w) if i in (4, 5) else c.ljust(w)
                 for i, (c, w) in enumerate(zip(line, widths, strict=True))]  # fmt: skip
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
    """The ops of encoding `batch` prompts, one U-Net call and decoding one picture, in order.

    height, width: pixels; the model's own size where None. Reads configs and tensor headers only.
    """
    kind = checkpoint.pipeline_class
    if not {"unet", "vae"} <= set(checkpoint.components):
        raise RequestError(f"plan: {source} is a {kind}: only a U-Net with its autoencoder, as"
                           " Stable Diffusion's, is planned")  # fmt: skip
    models = {}
    for name, cls in CLASSES.items():
        if name in checkpoint.components:
            data, tensors = checkpoint.component(name)
            config = CONFIGS[name].from_dict(data, f"{source}: {name}/config.json")
            models[name] = cls.from_config(config)
            store_as(models[name], tensors)
            models[name].pack()
    factor = models["vae"].config.downscale
    own = models["unet"].config.sample_size or 64
    sides = own if isinstance(own, tuple) else (own, own)
    given = []
    for field, value, side in (("height", height, sides[0]), ("width", width, sides[1])):
        if value is not None and value % factor:
            raise RequestError(f"{field}: expected a multiple of {factor}, given {value}")
        given.append(side if value is None else value // factor)
    steps: list[Step] = []
    with torch.no_grad():
        for name, model in models.items():
            with recorded(steps, name, model):
                RUNS[name](model, batch, *given)
    return steps


def store_as(model: nn.Module, tensors: TensorSource) -> None:
    """Gives the weights that stay as stored the dtype that most are stored in."""
    counts: dict[torch.dtype, int] = {}
    for name in tensors.keys():  # noqa: SIM118 - no dict
        dtype, shape = tensors.spec(name)
        if len(shape) > 1:
            counts[dtype] = counts.get(dtype, 0) + math.prod(shape)
    stored = max(counts, key=counts.get, default=torch.float32)
    if stored not in NARROW:
        return
    for module in model.modules():
        for name in getattr(module, "WIDENED", ()):
            weight = torch.empty_like(getattr(module, name), dtype=stored)
            setattr(module, name, nn.Parameter(weight, requires_grad=False))


# --- running on the meta device -------------------------------------------------------------------


def run_text(model: nn.Module, batch: int, height: int, width: int) -> None:
    length = min(77, model.config.max_position_embeddings)
    _, pooled, _ = model.text_model(on_meta(batch, length, dtype=torch.long), None)
    if isinstance(model, CLIPTextModelWithProjection):
        model.text_projection(pooled)


def run_unet(model: UNet2DConditionModel, batch: int, height: int, width: int) -> None:
    c = model.config
    dims = c.cross_attention_dim
    context = model.encode_context(on_meta(batch, 77, dims[0] if isinstance(dims, tuple) else dims))
    given: dict[str, Any] = {}
    if c.addition_embed_type == "text_time":
        # Whatever the split between the pooled text and the numbers, they are as wide together.
        text = c.projection_class_embeddings_input_dim - c.addition_time_embed_dim
        given["added_cond_kwargs"] = {
            "text_embeds": on_meta(batch, text), "time_ids": on_meta(batch, 1)
        }  # fmt: skip
    if c.time_cond_proj_dim is not None:
        given["timestep_cond"] = on_meta(batch, c.time_cond_proj_dim)
    if c.num_class_embeds is not None or c.class_embed_type == "timestep":
        given["class_labels"] = on_meta(batch, dtype=torch.long)
    elif c.class_embed_type == "projection":
        given["class_labels"] = on_meta(batch, c.projection_class_embeddings_input_dim)
    model(on_meta(batch, c.in_channels, height, width), on_meta(1), context, **given)


def run_vae(model: AutoencoderKL, batch: int, height: int, width: int) -> None:
    model.decode(on_meta(1, model.config.latent_channels, height, width))  # one at a time, always


RUNS = {
    "text_encoder": run_text,
    "text_encoder_2": run_text,
    "unet": run_unet,
    "vae": run_vae,
}


def on_meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


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
        return 2 * y.numel() * channels * (2 if a["activation"] in GATED else 1)
    if op == "conv2d":
        return 2 * y.numel() * math.prod(a["weight"].shape[1:4])
    if op == "attention":
        n, queries, width = a["q"].shape
        return 2 * n * queries * a["k"].shape[1] * (width + a["v"].shape[2])
    return 8 * (a["x"].numel() + (a["x2"].numel() if a.get("x2") is not None else 0))


def conv_algorithm(a: dict[str, Any], y: Tensor) -> str:
    """The choice of csrc/core/conv/algorithm.cc, asked for this shape."""
    weight = a["weight"]
    return core().conv2d_algorithm(
        *y.shape[1:3], weight.shape[3], y.shape[3], *weight.shape[1:3], a["stride"],
        a["upsample"], DTYPES[weight.dtype],
    )  # fmt: skip
