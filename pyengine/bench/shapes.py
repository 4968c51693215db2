"""The shapes at which ops are measured: Stable Diffusion 1.5's, batch 2 (a picture with guidance),
and LlamaGen's; on GPUs also Stable Diffusion XL's.

64x64 latents (512x512 pixels) and 32x32 latents (256x256): both U-Nets halve the side from level
to level, so 32^2 x 640 is the second level of the one and 32^2 x 320 the first of the other.
Tests use them too, to compile the kernels as a U-Net would call them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..ops.reference import COLUMNS
from ..ops.reference.linear import ACTIVATIONS

BATCH = 2
GROUPS = 32

#: Of DPM++ 2M with guidance; the other columns are 0.
SAMPLER_ROW = {
    "g": 7.5, "p": 0.9, "q": -0.4, "limit": float("inf"), "dscale": 1.0,
    "x_x": 0.8, "x_d": 0.3, "x_d1": -0.1,
}  # fmt: skip
#: Guidance, temperature, top-k, top-p and min-p, as Janus and LlamaGen are sampled.
SAMPLING_ROW = (5.0, 1.0, 1000.0, 0.95, 0.0)


@dataclass(frozen=True)
class Shape:
    """A named set of arguments of one op.

    build(dtype, device) makes them, by keyword.  flops: multiplications and additions that the
    op's definition needs; 0 where memory is the bound.
    """

    op: str
    label: str
    build: Callable[[torch.dtype, str], dict[str, Any]]
    flops: int = 0

    def __str__(self) -> str:
        return f"{self.op} {self.label}"


def nbytes(value: Any) -> int:
    """Bytes of all tensors in value: what an op must at least read or write of it."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(map(nbytes, value.values()))
    return sum(map(nbytes, value)) if isinstance(value, (tuple, list)) else 0


def group_norm(op: str, side: int, c: int, c2: int = 0, batch: int = BATCH, **more: Any) -> Shape:
    """side x side positions, c channels, and c2 more in a second input."""

    def build(dtype, device):
        tensors = {
            "x": _randn(dtype, device, batch, side, side, c),
            "weight": _randn(dtype, device, c + c2),
            "bias": _randn(dtype, device, c + c2),
        }
        if c2:
            tensors["x2"] = _randn(dtype, device, batch, side, side, c2)
        return {**tensors, "groups": min(GROUPS, c + c2), **more}

    return Shape(op, f"{side}^2 x {_joined(c, c2)}{_pictures(batch)}", build)


def layer_norm(rows: int, width: int) -> Shape:
    """Tokens of both pictures: rows x width."""

    def build(dtype, device):
        return {
            "x": _randn(dtype, device, rows, width),
            "weight": _randn(dtype, device, width),
            "bias": _randn(dtype, device, width),
        }

    return Shape("layer_norm", f"{rows} x {width}", build)


def geglu(rows: int, width: int) -> Shape:
    """rows x 2 width in, rows x width out."""
    return Shape(
        "geglu",
        f"{rows} x (2 x {width})",
        lambda dtype, device: {"x": _randn(dtype, device, rows, 2 * width)},
    )


def rms_norm(rows: int, width: int) -> Shape:
    """Rows of a token model, one of each sequence, or a prompt's."""

    def build(dtype, device):
        return {
            "x": _randn(dtype, device, rows, width),
            "weight": _randn(dtype, device, width),
        }

    return Shape("rms_norm", f"{rows} x {width}", build)


def swiglu(rows: int, width: int) -> Shape:
    """rows x 2 width in, rows x width out."""
    return Shape(
        "swiglu",
        f"{rows} x (2 x {width})",
        lambda dtype, device: {"x": _randn(dtype, device, rows, 2 * width)},
    )


def rotary(rows: int, tokens: int, heads: int, width: int) -> Shape:
    """The next tokens of every sequence, at places of their own."""

    def build(dtype, device):
        angles = torch.rand(tokens + 7, width // 2, device=device)
        return {
            "x": _randn(dtype, device, rows, tokens, heads * width),
            "cosines": angles.cos(),
            "sines": angles.sin(),
            "positions": torch.arange(tokens, device=device).repeat(rows, 1) + 7,
            "heads": heads,
        }

    return Shape("rotary", f"{rows} x {tokens}, {heads} x {width}", build)


def rotary_cache(rows: int, tokens: int, heads: int, width: int, most: int) -> Shape:
    """The next tokens of every sequence, behind half of a cache; q, k and v side by side."""

    def build(dtype, device):
        angles = torch.rand(most, width // 2, device=device)
        q, k, v = _randn(dtype, device, rows, tokens, 3 * heads * width).chunk(3, dim=-1)
        return {
            "q": q,
            "k": k,
            "v": v,
            "keys": _randn(dtype, device, rows, most, heads * width),
            "values": _randn(dtype, device, rows, most, heads * width),
            "lengths": torch.full((rows,), most // 2, device=device),
            "heads": heads,
            "cosines": angles.cos(),
            "sines": angles.sin(),
        }

    return Shape("rotary_cache", f"{rows} x {tokens}, {heads} x {width}, of {most}", build)


def decode_attention(
    rows: int, tokens: int, heads: int, kv_heads: int, width: int, length: int
) -> Shape:
    """The next tokens of every sequence, behind `length` others in a cache that they fill."""

    def build(dtype, device):
        size = (rows, length + tokens, kv_heads * width)
        return {
            "q": _randn(dtype, device, rows, tokens, heads * width),
            "keys": _randn(dtype, device, *size),
            "values": _randn(dtype, device, *size),
            "lengths": torch.full((rows,), length, device=device),
            "heads": heads,
        }

    label = f"{rows} x {tokens} behind {length}, {heads} x {width}"
    label += f" to {kv_heads}" if kv_heads != heads else ""
    return Shape("decode_attention", label, build)


def sampler_step(side: int, channels: int = 4, pictures: int = BATCH) -> Shape:
    """A DPM++ 2M step with guidance, channels first: x, 2 x model output, one earlier D."""

    def build(dtype, device):
        size = (pictures, channels, side, side)
        row = [SAMPLER_ROW.get(name, 0.0) for name in COLUMNS]
        return {
            "x": _randn(dtype, device, *size),
            "out": _randn(dtype, device, 2 * pictures, *size[1:]),
            "coeffs": torch.tensor([row] * pictures, device=device),
            "d1": _randn(dtype, device, *size),
        }

    return Shape("sampler_step", f"{pictures} x {channels} x {side}^2", build)


def conv2d(
    side: int, c: int, c_out: int, c2: int = 0, kernel: int = 3, batch: int = BATCH,
    stride: int = 1, upsample: bool = False, block: bool = False,
) -> Shape:  # fmt: skip
    """A convolution with bias: two inputs or one, of the same size unless stride or upsample.

    block: with what surrounds it in a residual block: scale, shift, SiLU before; a residual after.
    """
    out = side * (2 if upsample else 1) // stride
    flops = 2 * batch * out * out * c_out * kernel * kernel * (c + c2)

    def build(dtype, device):
        fan_in = kernel * kernel * (c + c2)
        given = {
            "x": _randn(dtype, device, batch, side, side, c),
            "weight": _randn(dtype, device, c_out, kernel, kernel, c + c2) / fan_in**0.5,
            "bias": _randn(dtype, device, c_out),
            "padding": (kernel // 2,) * 4,
        }
        if c2:
            given["x2"] = _randn(dtype, device, batch, side, side, c2)
        if stride > 1:
            given["stride"] = stride
        if upsample:
            given["upsample"] = True
        if block:
            given["scale"] = 1 + 0.2 * _randn(dtype, device, batch, c + c2)
            given["shift"] = _randn(dtype, device, batch, c + c2)
            given["residual"] = _randn(dtype, device, batch, out, out, c_out)
            given["silu"] = True
        return given

    label = f"{side}^2 x {_joined(c, c2)} -> {c_out}, {kernel}x{kernel}"
    label += f", stride {stride}" * (stride > 1) + ", upsampled" * upsample
    label += ", in a block" * block + _pictures(batch)
    return Shape("conv2d", label, build, flops)


def linear(
    rows: int, c: int, c_out: int, activation: str = "none", bias: bool = True,
    residual: bool = False, int8: bool = False,
) -> Shape:  # fmt: skip
    """rows x c -> rows x c_out, with bias; c_out is what is left after GEGLU, which halves.

    An even number of rows is two pictures', which decides what a GPU runs. int8: weights of 8 bits,
    with a scale for each output.
    """
    width = 2 * c_out if activation == "geglu" else c_out
    pictures = 1 if rows % 2 else 2
    lines = (pictures, rows // pictures)

    def build(dtype, device):
        given = {
            "x": _randn(dtype, device, *lines, c),
            "weight": _randn(dtype, device, width, c) / c**0.5,
        }
        if bias:
            given["bias"] = _randn(dtype, device, width)
        if int8:
            weight, given["weight_scale"] = ops.quantize_weight(given["weight"])
            if weight.dim() == 3:  # packed, on the CPU
                weight = ops.unpack_weight(weight, width).contiguous()
            given["weight"] = weight
        if activation != "none":
            given["activation"] = activation
        if residual:
            given["residual"] = _randn(dtype, device, *lines, c_out)
        return given

    after = [*(["no bias"] if not bias else []), *([activation] if activation != "none" else [])]
    after += [*(["residual"] if residual else []), *(["int8"] if int8 else [])]
    label = ", ".join([f"{rows} x {c} -> {c_out}", *after])
    return Shape("linear", label, build, 2 * rows * c * width)


def attention(queries: int, keys: int, heads: int, width: int, batch: int = BATCH) -> Shape:
    """heads of the given width, side by side."""

    def build(dtype, device):
        return {
            "q": _randn(dtype, device, batch, queries, heads * width),
            "k": _randn(dtype, device, batch, keys, heads * width),
            "v": _randn(dtype, device, batch, keys, heads * width),
            "heads": heads,
        }

    flops = 4 * batch * queries * keys * heads * width
    label = f"{queries} x {keys}, {heads} x {width}" + _pictures(batch)
    return Shape("attention", label, build, flops)


def vq_argmin(rows: int, entries: int, width: int) -> Shape:
    """Rows of an encoder's output against a codebook."""

    def build(dtype, device):
        return {
            "x": _randn(dtype, device, rows, width),
            "codebook": _randn(dtype, device, entries, width),
        }

    label = f"{rows} x {entries} x {width}"
    return Shape("vq_argmin", label, build, 2 * rows * entries * width)


def vq_decode(rows: int, entries: int, width: int, outputs: int = 0) -> Shape:
    """A gather, with the convolution behind it where it has outputs."""

    def build(dtype, device):
        inputs = {
            "indices": torch.randint(0, entries, (rows,), device=device),
            "codebook": _randn(dtype, device, entries, width),
        }
        if outputs:
            inputs["weight"] = _randn(dtype, device, outputs, width) / width**0.5
            inputs["bias"] = _randn(dtype, device, outputs)
        return inputs

    label = f"{rows} of {entries} x {width}" + (f" -> {outputs}" if outputs else "")
    return Shape("vq_decode", label, build)


def sample_token(pictures: int, tokens: int) -> Shape:
    """Every picture with the settings of SAMPLING_ROW."""

    def build(dtype, device):
        return {
            "logits": _randn(dtype, device, 2 * pictures, tokens),
            "uniform": torch.rand(pictures, dtype=torch.float64, device=device),
            "settings": torch.tensor([SAMPLING_ROW] * pictures, device=device),
        }

    return Shape("sample_token", f"{pictures} x {tokens}", build)


def mask_refine(pictures: int, places: int, tokens: int) -> Shape:
    """A step of masked generation, half of the places known."""

    def build(dtype, device):
        size = (pictures, places)
        known = torch.arange(places, device=device).expand(size)
        return {
            "logits": _randn(dtype, device, *size, tokens),
            "tokens": torch.where(known % 2 == 0, tokens, known % tokens),
            "noise": torch.rand(size, device=device),
            "gumbel": torch.rand(size, device=device),
            "masked": torch.full((pictures,), places // 4, device=device),
            "temperature": torch.ones(pictures, device=device),
            "mask_token": tokens,
        }

    return Shape("mask_refine", f"{pictures} x {places} x {tokens}", build)


def _randn(dtype: torch.dtype, device: str, *size: int) -> Tensor:
    return torch.randn(size, device=device).to(dtype)


def _pictures(batch: int) -> str:
    return "" if batch == BATCH else f", batch {batch}"


def _joined(c: int, c2: int) -> str:
    return f"({c} + {c2})" if c2 else str(c)


#: Tokens of both pictures and their width at each level of a U-Net on 64x64 latents.
_TOKENS = ((8192, 320), (2048, 640), (512, 1280), (128, 1280))

#: Side, channels, channels of the skip: the way down and the middle, then the way up.
_NORMS = (
    (64, 320, 0), (32, 640, 0), (16, 1280, 0), (8, 1280, 0), (32, 320, 0),
    (64, 320, 320), (32, 640, 640), (32, 1280, 640), (16, 1280, 1280), (8, 1280, 1280),
)  # fmt: skip

SHAPES: dict[str, list[Shape]] = {
    "group_norm_silu": [group_norm("group_norm_silu", *size) for size in _NORMS],
    "group_norm_scale_shift": [group_norm("group_norm_scale_shift", *size) for size in _NORMS],
    "layer_norm": [
        layer_norm(rows, width)
        for rows, width in ((8192, 320), (2048, 640), (512, 1280), (128, 1280), (2048, 320))
    ],
    "geglu": [
        geglu(rows, width)
        for rows, width in ((8192, 1280), (2048, 2560), (512, 5120), (2048, 1280))
    ],
    # A token of LlamaGen's B and XL with guidance, and a prompt.
    "rms_norm": [rms_norm(rows, width) for rows, width in ((2, 768), (2, 1280), (256, 768))],
    "swiglu": [swiglu(rows, width) for rows, width in ((2, 2048), (256, 2048))],
    "rotary": [rotary(2, 1, 12, 64), rotary(1, 256, 12, 64)],
    "rotary_cache": [rotary_cache(2, 1, 12, 64, 577), rotary_cache(1, 256, 12, 64, 577)],
    "decode_attention": [
        decode_attention(2, 1, 12, 12, 64, 288),
        decode_attention(2, 1, 12, 12, 64, 576),
        decode_attention(2, 16, 12, 12, 64, 288),
        decode_attention(8, 1, 32, 8, 128, 576),
        decode_attention(1, 256, 12, 12, 64, 0),
    ],
    "sampler_step": [sampler_step(side) for side in (32, 64, 128)] + [sampler_step(64, 4, 16)],
    "conv2d": [
        # The levels of a U-Net: 64x64 latents, and 32x32 from the second on.
        conv2d(64, 320, 320),
        conv2d(32, 640, 640),
        conv2d(16, 1280, 1280),
        conv2d(8, 1280, 1280),
        conv2d(4, 1280, 1280),
        conv2d(32, 320, 320),
        conv2d(16, 640, 640),
        # What surrounds one; two inputs; between levels; the first and the last.
        conv2d(64, 320, 320, block=True),
        conv2d(16, 1280, 1280, block=True),
        conv2d(8, 1280, 1280, c2=1280),
        conv2d(64, 320, 320, stride=2),
        conv2d(16, 1280, 1280, upsample=True),
        conv2d(64, 4, 320),
        conv2d(64, 320, 4),
        # The decoder's, one picture of 256x256.
        conv2d(64, 512, 512, batch=1),
        conv2d(128, 256, 256, batch=1),
        conv2d(256, 128, 128, batch=1),
    ],
    "linear": [
        *(linear(rows, c, c, bias=False) for rows, c in _TOKENS),
        *(linear(rows, c, 3 * c, bias=False) for rows, c in _TOKENS[:3]),
        *(linear(rows, c, 8 * c) for rows, c in _TOKENS),
        *(linear(rows, c, 4 * c, "geglu") for rows, c in _TOKENS if "geglu" in ACTIVATIONS),
        *(linear(rows, 4 * c, c) for rows, c in _TOKENS[:3]),
        *(linear(rows, 4 * c, c, residual=True) for rows, c in _TOKENS),
        linear(2048, 640, 2560, "gelu"),
        linear(154, 768, 640, bias=False),
        linear(154, 768, 3072, "quick_gelu"),
        linear(2, 1280, 1280),
        # A token of LlamaGen-B with guidance: one layer's, and the head.
        *(
            linear(2, *size, bias=False, int8=int8)
            for size in ((768, 2304), (768, 768), (768, 4096), (2048, 768), (768, 16384))
            for int8 in (False, True)
        ),
        # A window of Jacobi decoding.
        linear(32, 768, 4096, bias=False),
    ],
    "attention": [
        attention(4096, 4096, 8, 40),
        attention(4096, 77, 8, 40),
        attention(1024, 1024, 8, 80),
        attention(1024, 77, 8, 80),
        attention(256, 256, 8, 160),
        attention(64, 64, 8, 160),
        attention(4096, 4096, 1, 512, batch=1),
    ],
    "vq_argmin": [
        vq_argmin(*size) for size in ((576, 16384, 8), (1024, 8192, 256), (36864, 8192, 256))
    ],
    "vq_decode": [
        vq_decode(576, 16384, 8),
        vq_decode(576, 16384, 8, 256),
        vq_decode(1024, 8192, 256),
    ],
    "sample_token": [sample_token(1, 16384), sample_token(4, 16384)],
    "mask_refine": [mask_refine(1, 256, 8192), mask_refine(1, 1024, 8192)],
}

#: Measured on GPUs besides: a U-Net of SDXL at 1024x1024 pixels, 128x128 latents, and its decoder;
#: a token of LlamaGen-XL with guidance; more at once than a CPU would be asked for.
GPU_SHAPES: dict[str, list[Shape]] = {
    "group_norm_silu": [
        *(
            group_norm("group_norm_silu", *size)
            for size in (
                *((128, 320), (64, 640), (32, 1280), (128, 320, 320), (128, 640, 320)),
                *((64, 640, 640), (64, 1280, 640), (32, 1280, 1280)),
            )
        ),
        group_norm("group_norm_silu", 256, 512, batch=1),
        group_norm("group_norm_silu", 1024, 128, batch=1),
    ],
    "layer_norm": [layer_norm(8192, 640), layer_norm(2048, 1280)],
    "geglu": [geglu(8192, 2560), geglu(2048, 5120)],
    "sampler_step": [sampler_step(128, 4, 16), sampler_step(128, 4, 64)],
    "conv2d": [conv2d(128, 320, 320), conv2d(64, 640, 640), conv2d(32, 1280, 1280)],
    "linear": [
        linear(8192, 640, 640, bias=False),
        linear(8192, 640, 2560, "geglu"),
        linear(2048, 1280, 1280, bias=False),
        linear(2048, 1280, 5120, "geglu"),
        *(
            linear(2, *size, bias=False, int8=int8)
            for size in ((1280, 3840), (1280, 1280), (1280, 7168), (3584, 1280), (1280, 16384))
            for int8 in (False, True)
        ),
    ],
    "attention": [
        attention(queries, keys, heads, 64)
        for queries, heads in ((4096, 10), (1024, 20))
        for keys in (queries, 77)
    ],
    "rotary_cache": [rotary_cache(2, 1, 20, 64, 577)],
    "decode_attention": [decode_attention(2, 1, 20, 20, 64, 288)],
    "vq_argmin": [vq_argmin(36864, 16384, 8)],
}

#: One small shape an op, for a run that only shows that the benchmarks work.
TINY: dict[str, list[Shape]] = {
    "group_norm_silu": [group_norm("group_norm_silu", 5, 24, 8, groups=4)],
    "group_norm_scale_shift": [group_norm("group_norm_scale_shift", 5, 24, groups=4)],
    "layer_norm": [layer_norm(7, 20)],
    "geglu": [geglu(7, 20)],
    "rms_norm": [rms_norm(7, 20)],
    "swiglu": [swiglu(7, 20)],
    "rotary": [rotary(3, 2, 2, 6)],
    "rotary_cache": [rotary_cache(3, 2, 2, 6, 9)],
    "decode_attention": [decode_attention(3, 2, 4, 2, 6, 9)],
    "sampler_step": [sampler_step(5)],
    "conv2d": [conv2d(5, 6, 4, c2=2, block=True)],
    "linear": [linear(7, 20, 6, residual=True), linear(2, 20, 6, int8=True)],
    "attention": [attention(9, 5, 2, 8)],
    "vq_argmin": [vq_argmin(9, 40, 6)],
    "vq_decode": [vq_decode(9, 40, 6, 10)],
    "sample_token": [sample_token(2, 50)],
    "mask_refine": [mask_refine(2, 8, 20)],
}
