"""sampler_step: guidance and one update of any linear sampler, in one pass."""

from typing import Any

import torch
from torch import Tensor

from . import _backend, _check, reference
from ._check import wrong
from ._core import DTYPES, address, core, float32
from ._op import Op
from .reference import COLUMNS


def _check_arguments(
    x: Tensor,
    out: Tensor,
    coeffs: Tensor,
    d1: Tensor | None = None,
    d2: Tensor | None = None,
    d3: Tensor | None = None,
    base: Tensor | None = None,
    noise: Tensor | None = None,
    variance: Tensor | None = None,
) -> None:
    op = "sampler_step"
    if x.dim() < 1:
        raise wrong(op, "x", "at least one dimension", "a scalar")
    n = x.shape[0]
    guided = out.dim() == x.dim() and n > 0 and out.shape[0] == 2 * n
    _check.shape(out, (2 * n if guided else n, *x.shape[1:]), op, "out")
    _check.like(out, x, op, "out", dtype=False)
    _check.shape(coeffs, (n, len(COLUMNS)), op, "coeffs")
    _check.like(coeffs, x, op, "coeffs", dtype=False)
    named = {"d1": d1, "d2": d2, "d3": d3, "base": base, "noise": noise, "variance": variance}
    for name, tensor in named.items():
        if tensor is not None:
            _check.shape(tensor, tuple(x.shape), op, name)
            _check.like(tensor, x, op, name, dtype=name != "variance")


def _empty(x: Tensor, *others: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape), x.new_empty(x.shape)


def _queue(
    module: Any,
    on: int,
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
    """on: a number of threads, of the CPU's module; a stream's handle, of the GPU's."""
    dtype = x.dtype
    wide = out.dtype != dtype or (variance is not None and variance.dtype != dtype)
    if wide and dtype != torch.float32:
        # The samples are narrower than the model's output: in float32, then rounded once.
        past = (d1, d2, d3, base, noise, variance)
        wider = (None if t is None else t.float() for t in past)
        new, d, y = _queue(module, on, x.float(), out.float(), coeffs.float(), *wider)
        return new.to(dtype), d.to(dtype), y.to(dtype)
    x, out, coeffs = x.contiguous(), out.to(dtype).contiguous(), float32(coeffs)
    variance = None if variance is None else variance.to(dtype)
    d1, d2, d3, base, noise, variance = (
        None if t is None else t.contiguous() for t in (d1, d2, d3, base, noise, variance)
    )
    results = _empty(x)
    n = x.shape[0]
    size = x.numel() // n if n else 0
    guided = out.shape[0] == 2 * n
    conditional = address(out)
    if guided:
        conditional += x.numel() * x.element_size()
    x_new, d, y = results
    args = module.SamplerStepArgs(
        x=address(x),
        out=conditional,
        unconditional=address(out) if guided else 0,
        coefficients=address(coeffs),
        d1=address(d1),
        d2=address(d2),
        d3=address(d3),
        base=address(base),
        noise=address(noise),
        variance=address(variance),
        x_new=address(x_new),
        d=address(d),
        y=address(y),
        pictures=n,
        size=size,
    )
    module.sampler_step(args, DTYPES[dtype], on)
    return results


def _cpu(x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _queue(core(), torch.get_num_threads(), x, *args, **kwargs)


def _cuda(module: Any, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    with _backend.stream_of(x) as stream:
        return _queue(module, stream, x, *args, **kwargs)


OP = Op(
    reference.sampler_step,
    check=_check_arguments,
    fake=_empty,
    table={
        "cpu": (_backend.cpu(_cpu), _backend.reference(reference.sampler_step)),
        "cuda": (
            _backend.cuda(_cuda),
            _backend.triton("sampler_step"),
            _backend.reference(reference.sampler_step),
        ),
        _backend.ANY: (_backend.reference(reference.sampler_step),),
    },
)


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
    """One step: m = u + g (c - u), D, then the new sample and the kept tensor, in one pass.

    All are copied if not contiguous.

    Ho & Salimans 2022, arXiv:2207.12598 (guidance); Nichol & Dhariwal 2021, arXiv:2102.09672.

    Args:
        x: [N, ...] float32 | bfloat16 | float16 | float64, the current sample.
        out: the model's output, [N, ...], or [2 N, ...] with the N unconditional rows first; any
            floating-point dtype.
        coeffs: [N, len(COLUMNS)], a row per picture (pyengine.ops.COLUMNS).
        d1, d2, d3: [N, ...] in x's dtype: the D of the last evaluations, the newest first; or None,
            which counts as zero and is not read.
        base, noise: [N, ...] in x's dtype, likewise: a sample that was kept, and normal numbers.
        variance: [N, ...] of any floating-point dtype, or None: what the model says of the noise's
            variance, by which the noise has a factor of its own for every element.

    Returns:
        (new x, D, y), each [N, ...] in x's dtype, computed in float32 (float64 for float64); the
        formulas are in pyengine.ops.reference.sampler_step.

    Raises:
        RequestError: for other shapes and dtypes.
    """
    return OP(x, out, coeffs, d1, d2, d3, base, noise, variance)
