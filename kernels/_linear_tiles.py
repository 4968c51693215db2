"""linear's products with weights of 8 bits for many rows, in Triton.

A program makes a tile of the result from tiles of x and of the weight, which are widened in
registers: no 16-bit copy of the weights lies in memory. Where x is to be rounded, a launch before
does that; tensor cores that can multiply e4m3 then take both as they are, others get both widened,
exactly, and so do all where the result is float32, whose digits the sums in fp8 would not have.
Programs run in plain order: the second-level cache of an A100 or H100 holds a U-Net's matrices.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from pyengine.ops.reference.linear import GATED

from ._launch import Launch, cdiv, power_of_2
from ._linear_parts import finish, outputs_of, rows_of, widened

#: Elements of x that a program rounds at a time: 16 for each of 128 threads.
ROUNDED = 2048
#: Products that tensor cores may add up by themselves: in fp8 those of Hopper keep some 14 bits
#: (DeepSeek-AI 2024, arXiv:2412.19437, 3.3.2, which proposes 128).
FP8_CHAIN = 128


@triton.jit
def _e4m3(v):
    """float32 as bits of e4m3: to nearest, ties to even, at most 448; NaN becomes zero.

    Made from bits, since sm_80 has no conversion.
    """
    bits = v.to(tl.int32, bitcast=True)
    size = bits & 0x7FFFFFFF
    is_nan = size > 0x7F800000
    size = tl.minimum(size, 0x43E00000)  # 448
    # 23 bits of mantissa to 3; the exponent counts from 7 instead of 127.
    normal = ((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - (120 << 3)
    # Below 2^-6 whole multiples of 2^-9, which is the unit of the sum's last place.
    sums = size.to(tl.float32, bitcast=True) + 16384.0
    subnormal = sums.to(tl.int32, bitcast=True) - 0x46800000
    code = tl.where(size < 0x3C800000, subnormal, normal) | ((bits >> 24) & 0x80)
    return tl.where(is_nan, 0, code).to(tl.uint8)


@triton.jit(do_not_specialize=["rows"])
def _quantize_rows(x, numbers, scales, rows, depth, ROWS: tl.constexpr, DEPTH: tl.constexpr):
    """Each row's e4m3 numbers, as bits, and its scale: the largest magnitude / 448."""
    x, line, row, there = rows_of(x, rows, depth, ROWS)
    numbers += tl.program_id(0).to(tl.int64) * ROWS * depth
    # Magnitudes are ordered as their bits are, and NaN's are the largest: it comes through.
    most = tl.zeros([ROWS], tl.int32)
    for start in range(0, depth, DEPTH):
        k = start + tl.arange(0, DEPTH)
        mask = there[:, None] & (k < depth)[None, :]
        v = tl.load(x + line[:, None] * depth + k[None, :], mask=mask, other=0.0).to(tl.float32)
        most = tl.maximum(most, tl.max(v.to(tl.int32, bitcast=True) & 0x7FFFFFFF, axis=1))
    scale = tl.div_rn(most.to(tl.float32, bitcast=True), 448.0)
    tl.store(scales + row, scale, mask=there)
    for start in range(0, depth, DEPTH):
        k = start + tl.arange(0, DEPTH)
        mask = there[:, None] & (k < depth)[None, :]
        place = line[:, None] * depth + k[None, :]
        v = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
        divisor = tl.broadcast_to(scale[:, None], [ROWS, DEPTH])
        tl.store(numbers + place, _e4m3(tl.div_rn(v, divisor)), mask=mask)


@triton.jit
def _product(a, b, sums, FP8: tl.constexpr, CHAIN: tl.constexpr):
    """sums + a @ b.T, where b are weights of 8 bits and a has 16, or as many."""
    if FP8:
        a = a.to(tl.float8e4nv, bitcast=True)
        b = b.to(tl.float8e4nv, bitcast=True)
        sums = tl.dot(a, tl.trans(b), sums, max_num_imprecise_acc=CHAIN)
    else:
        if a.dtype == tl.uint8:
            a = widened(a, tl.float16)
        sums = tl.dot(a, tl.trans(widened(b, a.dtype)), sums)
    return sums


@triton.jit(do_not_specialize=["rows", "lines"])
def _linear_tile(
    x,
    x_scale,
    weight,
    weight_scale,
    bias,
    addend,
    gate,
    residual,
    y,
    rows,
    depth,
    width,
    lines,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    UNIT: tl.constexpr,
    FP8: tl.constexpr,
    CHAIN: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    x, line, row, there = rows_of(x, rows, depth, ROWS)
    weight, second, outputs, column, inside = outputs_of(weight, depth, width, COLUMNS)
    sums = tl.zeros([ROWS, COLUMNS], tl.float32)
    gates = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, depth, DEPTH):
        k = start + tl.arange(0, DEPTH)
        deep = (k < depth)[None, :]
        a = tl.load(x + line[:, None] * depth + k[None, :], mask=there[:, None] & deep, other=0)
        place = outputs[:, None] * depth + k[None, :]
        mask = inside[:, None] & deep
        sums = _product(a, tl.load(weight + place, mask=mask, other=0), sums, FP8, CHAIN)
        if GATED:
            gates = _product(a, tl.load(second + place, mask=mask, other=0), gates, FP8, CHAIN)
    if x_scale is not None:
        scale = tl.load(x_scale + row, mask=there, other=0.0)[:, None]
        sums *= scale
        gates *= scale
    finish(
        sums,
        gates,
        weight_scale,
        bias,
        addend,
        gate,
        residual,
        y,
        row,
        there,
        column,
        inside,
        width,
        lines,
        ACTIVATION,
        GATED,
        UNIT,
    )


def multiplies_fp8(device: torch.device) -> bool:
    """Whether its tensor cores take e4m3: from compute capability 8.9 on."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 9)


def quantize_rows(x: Tensor) -> tuple[Launch, Tensor, Tensor]:
    """(the launch that fills them, the rows' e4m3 numbers as uint8, their float32 scales)."""
    rows, depth = x.shape[:-1].numel(), x.shape[-1]
    numbers = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    scales = torch.empty(rows, dtype=torch.float32, device=x.device)
    deep = min(power_of_2(depth), ROUNDED // 4)
    constants = {"ROWS": ROUNDED // deep, "DEPTH": deep}
    args = {"x": x, "numbers": numbers, "scales": scales, "rows": rows, "depth": depth}
    grid = (cdiv(rows, ROUNDED // deep),)
    return Launch(_quantize_rows, grid, args, constants), numbers, scales


def _blocks(rows: int, gated: bool) -> tuple[int, int, int, int]:
    """Rows and outputs of a tile, warps and stages, for so many rows a picture."""
    if rows >= 1024:
        return 128, 64 if gated else 128, 8, 3
    return 64, 64, 4, 4


def plan(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    ends: dict[str, Tensor | None],
    y: Tensor,
    activation: str,
    quantize_x: bool,
) -> list[Launch]:
    """The launches that fill y. x: [..., C], 16 bits wide unless it is to be rounded; weight:
    [Cout, C] int8, or e4m3 as uint8; ends: bias, addend, gate and residual. All as `prepare` leaves
    them.
    """
    launches, x_scale, unit, fp8 = [], None, 256 if weight.dtype == torch.uint8 else 1, False
    lines = x.shape[1:-1].numel()
    if quantize_x:
        launch, x, x_scale = quantize_rows(x)
        launches.append(launch)
        fp8 = y.dtype != torch.float32 and multiplies_fp8(x.device)
        unit = 1 if fp8 else 256 * 256
    rows, columns, warps, stages = _blocks(lines, activation in GATED)
    args = {"x": x, "x_scale": x_scale, "weight": weight, "weight_scale": weight_scale}
    args |= ends | {"y": y}
    args |= {"rows": x.shape[:-1].numel(), "depth": x.shape[-1], "width": y.shape[-1]}
    args |= {"lines": lines}
    constants = {"ACTIVATION": activation, "GATED": activation in GATED}
    constants |= {"UNIT": unit, "FP8": fp8, "CHAIN": FP8_CHAIN}
    constants |= {"ROWS": rows, "COLUMNS": columns, "DEPTH": 128 // x.itemsize}
    grid = (cdiv(args["rows"], rows), cdiv(args["width"], columns))
    return [*launches, Launch(_linear_tile, grid, args, constants, warps, stages)]
