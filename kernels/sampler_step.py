"""sampler_step in Triton: guidance and update in one pass, each tensor read once.

Ho & Salimans 2022, arXiv:2207.12598; the formula is pyengine.ops.reference.sampler_step's.
"""

import triton
import triton.language as tl
from torch import Tensor

from pyengine.ops.reference import COLUMNS

from ._launch import Launch, cdiv, prepare

BLOCK = 1024

# A coefficient's place in its row, as constants that Triton can compile in.
G, P, Q, LIMIT, DSCALE, X_X, X_M, X_D, X_D1, X_D2, X_D3, X_BASE, X_NOISE = (
    tl.constexpr(COLUMNS.index(name))
    for name in (
        *("g", "p", "q", "limit", "dscale"),
        *("x_x", "x_m", "x_d", "x_d1", "x_d2", "x_d3", "x_base", "x_noise"),
    )
)
Y_X, Y_D, Y_D1, Y_D2, Y_D3, Y_BASE = (
    tl.constexpr(COLUMNS.index(name)) for name in ("y_x", "y_d", "y_d1", "y_d2", "y_d3", "y_base")
)
V_1, V_V = (tl.constexpr(COLUMNS.index(name)) for name in ("v_1", "v_v"))


@triton.jit
def _add(new, kept, tensor, offset, mask, row, X: tl.constexpr, Y: tl.constexpr):
    """new and kept with an optional tensor's share; an absent tensor is never read."""
    if tensor is not None:
        v = tl.load(tensor + offset, mask=mask, other=0.0).to(tl.float32)
        new += tl.load(row + X) * v
        kept += tl.load(row + Y) * v
    return new, kept


# One program for any number of pictures.
@triton.jit(do_not_specialize=["pictures"])
def _sampler_step(
    x,
    out,
    coeffs,
    d1,
    d2,
    d3,
    base,
    noise,
    variance,
    new_x,
    new_d,
    new_y,
    pictures,
    size,
    GUIDED: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    picture = tl.program_id(1).to(tl.int64)
    element = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = element < size
    offset = picture * size + element
    row = coeffs + picture * WIDTH

    xv = tl.load(x + offset, mask=mask, other=0.0).to(tl.float32)
    m = tl.load(out + offset, mask=mask, other=0.0).to(tl.float32)
    if GUIDED:
        cond = tl.load(out + (picture + pictures) * size + element, mask=mask, other=0.0)
        m += tl.load(row + G) * (cond.to(tl.float32) - m)
    limit = tl.load(row + LIMIT)
    d = tl.load(row + P) * xv + tl.load(row + Q) * m
    # NaN must come through, as it does through torch.clamp: a broken model must not look clipped.
    d = tl.maximum(d, -limit, propagate_nan=tl.PropagateNan.ALL)
    d = tl.minimum(d, limit, propagate_nan=tl.PropagateNan.ALL) * tl.load(row + DSCALE)

    new = tl.load(row + X_X) * xv + tl.load(row + X_M) * m + tl.load(row + X_D) * d
    kept = tl.load(row + Y_X) * xv + tl.load(row + Y_D) * d
    new, kept = _add(new, kept, d1, offset, mask, row, X_D1, Y_D1)
    new, kept = _add(new, kept, d2, offset, mask, row, X_D2, Y_D2)
    new, kept = _add(new, kept, d3, offset, mask, row, X_D3, Y_D3)
    new, kept = _add(new, kept, base, offset, mask, row, X_BASE, Y_BASE)
    if noise is not None:
        drawn = tl.load(noise + offset, mask=mask, other=0.0).to(tl.float32)
        if variance is not None:
            v = tl.load(variance + offset, mask=mask, other=0.0).to(tl.float32)
            drawn *= tl.exp(tl.load(row + V_1) + tl.load(row + V_V) * v)
        new += tl.load(row + X_NOISE) * drawn
    dtype = new_x.dtype.element_ty
    tl.store(new_x + offset, new.to(dtype), mask=mask)
    tl.store(new_d + offset, d.to(dtype), mask=mask)
    tl.store(new_y + offset, kept.to(dtype), mask=mask)


def plan(
    x: Tensor,
    out: Tensor,
    coeffs: Tensor,
    d1: Tensor | None = None,
    d2: Tensor | None = None,
    d3: Tensor | None = None,
    base: Tensor | None = None,
    noise: Tensor | None = None,
    variance: Tensor | None = None,
) -> tuple[list[Launch], tuple[Tensor, Tensor, Tensor]]:
    """The launches that compute sampler_step(...), and the three tensors they fill."""
    given = {"d1": d1, "d2": d2, "d3": d3, "base": base, "noise": noise, "variance": variance}
    x, out, coeffs, *others = prepare("sampler_step", x, out, coeffs, *given.values())
    results = tuple(x.new_empty(x.shape) for _ in range(3))
    pictures = x.shape[0]
    size = x.numel() // max(pictures, 1)
    args = {"x": x, "out": out, "coeffs": coeffs}
    args |= dict(zip(given, others, strict=True))
    args |= dict(zip(("new_x", "new_d", "new_y"), results, strict=True))
    args |= {"pictures": pictures, "size": size}
    constants = {"GUIDED": out.shape[0] == 2 * pictures, "WIDTH": len(COLUMNS), "BLOCK": BLOCK}
    return [Launch(_sampler_step, (cdiv(size, BLOCK), pictures), args, constants)], results


def sampler_step(
    x: Tensor,
    out: Tensor,
    coeffs: Tensor,
    d1: Tensor | None = None,
    d2: Tensor | None = None,
    d3: Tensor | None = None,
    base: Tensor | None = None,
    noise: Tensor | None = None,
    variance: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of a linear sampler: guidance, D, the new sample and the kept tensor.

    x: [N, ...]; out: [N, ...] or [2 N, ...] (unconditional rows first); coeffs: [N,
    len(COLUMNS)] float32; d1, d2, d3, base, noise: [N, ...] or None, which counts as zero and is
    not read; variance: [N, ...] or None.  On one GPU, float32 | bfloat16 | float16, not necessarily
    the same; copied if not contiguous.
    Returns (new x, D, y), each in x's shape and dtype, computed in float32.
    """
    launches, results = plan(x, out, coeffs, d1, d2, d3, base, noise, variance)
    for launch in launches:
        launch.run()
    return results
