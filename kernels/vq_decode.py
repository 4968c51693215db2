"""vq_decode in Triton: the gather, with the convolution as its product where wanted."""

import triton
import triton.language as tl
from torch import Tensor

from ._launch import Launch, cdiv, prepare, readable

ROWS, BLOCK, DEPTH = 16, 64, 16
#: Outputs of a block where there is a product: with 64 of them bfloat16 spills on sm_80.
PRODUCT_BLOCK = 32


@triton.jit
def _gather(
    indices, codebook, row, there, k, inside, levels, entries, width, RESIDUAL: tl.constexpr
):
    """Channels k of the gathered vectors of some rows, [rows, k], in float32."""
    mask = there[:, None] & inside[None, :]
    if RESIDUAL:
        total = tl.zeros([row.shape[0], k.shape[0]], tl.float32)
        for level in range(levels):
            index = tl.load(indices + row * levels + level, mask=there, other=0)
            entry = codebook + (level * entries + index) * width
            total += tl.load(entry[:, None] + k[None, :], mask=mask, other=0.0).to(tl.float32)
    else:
        level = k // width
        index = tl.load(indices + row[:, None] * levels + level[None, :], mask=mask, other=0)
        channel = (k - level * width)[None, :]
        entry = (level[None, :] * entries + index) * width + channel
        total = tl.load(codebook + entry, mask=mask, other=0.0).to(tl.float32)
    return total


@triton.jit(do_not_specialize=["rows"])
def _vq_decode(
    indices,
    codebook,
    weight,
    bias,
    y,
    rows,
    levels,
    entries,
    width,
    inputs,
    outputs,
    RESIDUAL: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = row < rows
    inside = column < outputs
    if weight is None:
        result = _gather(
            indices, codebook, row, there, column, inside, levels, entries, width, RESIDUAL
        )
    else:
        # A term at a time, so that a row's bits do not depend on its place in the block.
        result = tl.zeros([ROWS, BLOCK], tl.float32)
        for first in range(0, inputs, DEPTH):
            terms = tl.zeros([ROWS, BLOCK], tl.float32)
            for term in range(DEPTH):
                k = first + term + tl.arange(0, 1)
                x = _gather(
                    indices, codebook, row, there, k, k < inputs, levels, entries, width, RESIDUAL
                )
                w = tl.load(
                    weight + column[None, :] * inputs + k[:, None],
                    mask=inside[None, :] & (k < inputs)[:, None],
                    other=0.0,
                ).to(tl.float32)
                terms += x * w
            result += terms
        if bias is not None:
            result += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)[None, :]
    target = y + row[:, None] * outputs + column[None, :]
    tl.store(target, result.to(y.dtype.element_ty), mask=there[:, None] & inside[None, :])


def plan(
    indices: Tensor,
    codebook: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    residual: bool = False,
) -> tuple[list[Launch], Tensor]:
    """The launches that compute vq_decode(...), and the tensor they fill."""
    codebook, weight, bias = prepare("vq_decode", codebook, weight, bias)
    indices = readable(indices)
    levels = codebook.shape[0] if codebook.dim() == 3 else 1
    entries, width = codebook.shape[-2:]
    inputs = width * (1 if residual else levels)
    outputs = inputs if weight is None else weight.shape[0]
    places = indices.shape if codebook.dim() == 2 else indices.shape[:-1]
    y = codebook.new_empty(*places, outputs)
    rows = places.numel()
    block = BLOCK if weight is None else PRODUCT_BLOCK
    launch = Launch(
        _vq_decode,
        (cdiv(rows, ROWS), cdiv(outputs, block)),
        {"indices": indices, "codebook": codebook, "weight": weight, "bias": bias, "y": y}
        | {"rows": rows, "levels": levels, "entries": entries, "width": width}
        | {"inputs": inputs, "outputs": outputs},
        {"RESIDUAL": residual, "ROWS": ROWS, "BLOCK": block, "DEPTH": DEPTH},
    )
    return [launch], y


def vq_decode(
    indices: Tensor,
    codebook: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    residual: bool = False,
) -> Tensor:
    """The codebook's entries at the indices, and a 1x1 convolution of them.

    Arguments as pyengine.ops.vq_decode's, on one GPU, codebook float32 | bfloat16 | float16; copied
    if not contiguous.  The indices must lie within the codebook: pyengine.ops looks.
    """
    launches, y = plan(indices, codebook, weight, bias, residual=residual)
    for launch in launches:
        launch.run()
    return y
