"""Arguments of one call of an op: a function per op returns a Shape that builds them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..ops.reference import COLUMNS
from ..ops.reference.linear import GATED

BATCH = 2
GROUPS = 32

#: Coefficients of a DPM++ 2M step with guidance; the other columns are 0.
SAMPLER_ROW = {
    "g": 7.5,
    "p": 0.9,
    "q": -0.4,
    "limit": float("inf"),
    "dscale": 1.0,
    "x_x": 0.8,
    "x_d": 0.3,
    "x_d1": -0.1,
}
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

    def build(dtype: torch.dtype, device: str) -> dict[str, Any]:
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
    return _row_norm("layer_norm", rows, width, ("weight", "bias"))


def rms_norm(rows: int, width: int) -> Shape:
    """Rows of a token model, one of each sequence, or a prompt's."""
    return _row_norm("rms_norm", rows, width, ("weight",))


def _row_norm(op: str, rows: int, width: int, vectors: tuple[str, ...]) -> Shape:
    """vectors: the op's arguments of one number a channel."""

    def build(dtype: torch.dtype, device: str) -> dict[str, Any]:
        x = _randn(dtype, device, rows, width)
        return {"x": x, **{name: _randn(dtype, device, width) for name in vectors}}

    return Shape(op, f"{rows} x {width}", build)


def geglu(rows: int, width: int) -> Shape:
    """rows x 2 width in, rows x width out."""
    return _gated("geglu", rows, width)


def swiglu(rows: int, width: int) -> Shape:
    """rows x 2 width in, rows x width out."""
    return _gated("swiglu", rows, width)


def _gated(op: str, rows: int, width: int) -> Shape:
    return Shape(
        op,
        f"{rows} x (2 x {width})",
        lambda dtype, device: {"x": _randn(dtype, device, rows, 2 * width)},
    )


def rotary(rows: int, tokens: int, heads: int, width: int) -> Shape:
    """The next tokens of every sequence, at different positions."""

    def build(dtype: torch.dtype, device: str) -> dict[str, Any]:
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
    """The next tokens of every sequence, after a half-filled cache; q, k and v are one tensor's
    slices.
    """

    def build(dtype: torch.dtype, device: str) -> dict[str, Any]:
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
    """The next tokens of every sequence, after `length` others; together they fill the cache."""

    def build(dtype: torch.dtype, device: str) -> dict[str, Any]:
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

    def build(dtype: torch.dtype, device: str) -> dict[str, Any]:
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
    side: int,
    c: int,
    c_out: int,
    c2: int = 0,
    kernel: int = 3,
    batch: int = BATCH,
    stride: int = 1,
    upsample: bool = False,
    block: bool = False,
) -> Shape:
    """A convolution with bias: two inputs or one, of the same size unless stride or upsample.

    block: with what surrounds it in a residual block: scale, shift, SiLU before; a residual after.
    """
    out = side * (2 if upsample else 1) // stride
    flops = 2 * batch * out * out * c_out * kernel * kernel * (c + c2)

    def build(dtype: torch.dtype, device: str) -> dict[str, Any]:
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
    rows: int,
    c: int,
    c_out: int,
    activation: str = "none",
    bias: bool = True,
    residual: bool = False,
    int8: bool = False,
    gate: bool = False,
) -> Shape:
    """rows x c -> rows x c_out, with bias; c_out is what is left after GEGLU, which halves.

    An even number of rows is two pictures', which decides what a GPU runs. int8: weights of 8 bits,
    with a scale for each output. gate: a factor per picture and channel, as in DiT.
    """
    width = 2 * c_out if activation in GATED else c_out
    pictures = 1 if rows % 2 else 2
    lines = (pictures, rows // pictures)

    def build(dtype: torch.dtype, device: str) -> dict[str, Any]:
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
        if gate:
            given["gate"] = _randn(dtype, device, pictures, c_out)
        if residual:
            given["residual"] = _randn(dtype, device, *lines, c_out)
        return given

    after = [*(["no bias"] if not bias else []), *([activation] if activation != "none" else [])]
    named = {"gate": gate, "residual": residual, "int8": int8}
    after += [name for name, there in named.items() if there]
    label = ", ".join([f"{rows} x {c} -> {c_out}", *after])
    return Shape("linear", label, build, 2 * rows * c * width)


def attention(queries: int, keys: int, heads: int, width: int, batch: int = BATCH) -> Shape:
    """heads of the given width, side by side."""

    def build(dtype: torch.dtype, device: str) -> dict[str, Any]:
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

    def build(dtype: torch.dtype, device: str) -> dict[str, Any]:
        return {
            "x": _randn(dtype, device, rows, width),
            "codebook": _randn(dtype, device, entries, width),
        }

    label = f"{rows} x {entries} x {width}"
    return Shape("vq_argmin", label, build, 2 * rows * entries * width)


def vq_decode(rows: int, entries: int, width: int, outputs: int = 0) -> Shape:
    """A gather of codebook entries; with outputs, also the 1x1 convolution that follows it."""

    def build(dtype: torch.dtype, device: str) -> dict[str, Any]:
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
    """One token of each picture, with the settings of SAMPLING_ROW."""

    def build(dtype: torch.dtype, device: str) -> dict[str, Any]:
        return {
            "logits": _randn(dtype, device, 2 * pictures, tokens),
            "uniform": torch.rand(pictures, dtype=torch.float64, device=device),
            "settings": torch.tensor([SAMPLING_ROW] * pictures, device=device),
        }

    return Shape("sample_token", f"{pictures} x {tokens}", build)


def mask_refine(pictures: int, places: int, tokens: int) -> Shape:
    """A step of masked generation with half of the positions known."""

    def build(dtype: torch.dtype, device: str) -> dict[str, Any]:
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
