"""What calls of the ops launch on a GPU, at the shapes for which tests and docs compile them."""

from importlib import import_module
from unittest.mock import patch

import torch

from pyengine.bench.arguments import Shape, attention, layer_norm, linear, rms_norm
from pyengine.bench.shapes import GPU_SHAPES, SHAPES
from pyengine.ops import OPS

FLOAT32, FLOAT16, BFLOAT16 = torch.float32, torch.float16, torch.bfloat16

#: Ops with kernels that move data: compiled at every shape of the benchmarks.
STREAMED = (
    *("group_norm_silu", "group_norm_scale_shift", "layer_norm", "geglu", "sampler_step"),
    *("vq_argmin", "vq_decode", "sample_token", "mask_refine"),
    *("rms_norm", "swiglu", "rotary", "rotary_cache", "decode_attention"),
)
#: The ops that share a file, whose functions need names.
PLANS = {
    "group_norm_scale_shift": "plan_scale_shift",
    "rms_norm": "plan_rms_norm",
    "rotary_cache": "plan_rotary_cache",
    "swiglu": "plan_swiglu",
}


def launches_of(shape: Shape, dtype: torch.dtype, architecture: int = 90):
    """The launches of one call for sm_<architecture>, planned on tensors that have no memory."""
    module = import_module(f"pyengine.kernels.{OPS[shape.op].module}")
    plan = PLANS.get(shape.op, "plan")
    fp8 = "pyengine.kernels._linear_tiles.multiplies_fp8"
    with patch(fp8, lambda device: architecture >= 89):
        return getattr(module, plan)(**shape.build(dtype, "meta"))[0]


def masked(shape: Shape, size: tuple[int, ...], **more) -> Shape:
    """attention with a mask of that size."""
    label = f"{shape.label}, mask {' x '.join(map(str, size))}"

    def build(dtype, device):
        mask = torch.zeros(size, device=device)
        return {**shape.build(dtype, device), "mask": mask, **more}

    return Shape("attention", label, build)


def epilogue(side: int, channels: int, batch: int = 2) -> Shape:
    """What follows a convolution in a residual block; conv2d's plan is of that alone."""

    def build(dtype, device):
        sizes = {
            "y": (batch, side, side, channels),
            "bias": (channels,),
            "channel_add": (batch, channels),
            "residual": (batch, side, side, channels),
        }
        return {name: torch.randn(s, device=device).to(dtype) for name, s in sizes.items()}

    return Shape("conv2d", f"{side}^2 x {channels}", build)


def quantised(shape: Shape, weight: torch.dtype, quantize_x: bool = False) -> Shape:
    """linear with weights of 8 bits."""
    label = f"{shape.label}, weights {str(weight)[6:]}{', x too' if quantize_x else ''}"

    def build(dtype, device):
        given = shape.build(dtype, device)
        scale = torch.ones(given["weight"].shape[0], device=device)
        given |= {"weight": given["weight"].to(weight), "weight_scale": scale}
        return {**given, "quantize_x": quantize_x}

    return Shape("linear", label, build)


#: The ops with matrix products: every different choice of blocks, as (shape, dtype, sm_).
PRODUCTS = [
    (attention(4096, 4096, 8, 40), BFLOAT16, 90),
    (attention(4096, 4096, 8, 40), FLOAT16, 90),
    (attention(4096, 4096, 8, 40), BFLOAT16, 80),
    (attention(4096, 77, 8, 40), FLOAT32, 90),
    (masked(attention(77, 77, 12, 64), (2, 1, 1, 77), causal=True), BFLOAT16, 80),
    (masked(attention(256, 256, 8, 160), (256, 256)), BFLOAT16, 80),
    (linear(2, 1280, 3840, bias=False), BFLOAT16, 90),
    (linear(2, 1280, 3840, bias=False), BFLOAT16, 80),
    (linear(2, 1280, 5120, "geglu"), FLOAT16, 90),
    (linear(2, 1280, 1280, "gelu", residual=True), FLOAT32, 90),
    (linear(2, 1280, 5120, "geglu"), FLOAT32, 80),
    (linear(2, 1152, 4608, "gelu_tanh", gate=True, residual=True), BFLOAT16, 90),
    (linear(2, 1152, 4608, "gelu_tanh", gate=True, residual=True), FLOAT32, 80),
    (quantised(linear(2, 1280, 3840, bias=False), torch.int8), BFLOAT16, 90),
    (quantised(linear(2, 1280, 3840, bias=False), torch.int8), FLOAT32, 80),
    (quantised(linear(2, 1280, 3840, bias=False), torch.float8_e4m3fn), BFLOAT16, 90),
    (quantised(linear(2, 1280, 3840, bias=False), torch.float8_e4m3fn), BFLOAT16, 80),
    *(
        (quantised(linear(rows, 320, width, activation), weight), dtype, architecture)
        for rows in (128, 8192)
        for width, activation in ((320, "none"), (1280, "geglu"))
        for weight, dtype in ((torch.int8, BFLOAT16), (torch.float8_e4m3fn, FLOAT16))
        for architecture in (90, 80)
    ),
]

#: Products of e4m3, which differ by what a GPU's tensor cores can multiply.
FP8 = [
    (quantised(linear(rows, 320, width, activation), torch.float8_e4m3fn, True), *target)
    for rows in (128, 8192)
    for width, activation in ((320, "none"), (1280, "geglu"))
    for target in ((BFLOAT16, 90), (FLOAT32, 90), (BFLOAT16, 89), (BFLOAT16, 80))
]


def streamed() -> list[tuple[Shape, torch.dtype, int]]:
    """(shape, dtype, sm_) of the others: bfloat16 at every shape, the rest at the first."""
    shapes = [s for op in STREAMED for s in (*SHAPES[op], *GPU_SHAPES.get(op, ()))]
    first = [*(SHAPES[op][0] for op in STREAMED), layer_norm(8, 20000), rms_norm(8, 20000)]
    return [
        *((shape, BFLOAT16, 90) for shape in shapes),
        *((shape, dtype, 90) for shape in first for dtype in (FLOAT32, FLOAT16)),
        *((shape, BFLOAT16, 80) for shape in (*first, SHAPES["vq_decode"][1])),
        *((epilogue(64, 320), dtype, 90) for dtype in (FLOAT32, FLOAT16, BFLOAT16)),
    ]
