"""Who is measured against whom, and that they agree, for the table and for pytest-benchmark."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyengine import ops

from ..measure import inputs_for
from ..shapes import Shape

CONTESTANTS = ("torch", "torch.compile", "pyengine")
#: Relative L2 distance between us and torch: rounding, no more. tests/ops holds the promises.
AGREEMENT = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def contestant(name: str, op: str, eager: Callable[..., Any], device: str) -> Callable[..., Any]:
    """The function that runs under that name; `eager` is the op as one would write it in torch."""
    if name == "pyengine":
        return getattr(ops, op)
    if name == "torch":
        return eager
    torch.compiler.reset()  # a fresh compilation for every shape, as for a fixed model
    mode = "max-autotune" if device.startswith("cuda") else None
    return torch.compile(eager, fullgraph=True, dynamic=False, mode=mode)


def check(name: str, got: Any, want: Any, dtype: torch.dtype) -> None:
    """Raises AssertionError where results differ by more than rounding."""
    pairs = [(got, want)] if isinstance(want, Tensor) else list(zip(got, want, strict=False))
    for one, other in pairs:
        one, other = one.double(), other.double()
        distance = ((one - other).norm() / other.norm()).item()
        assert distance <= AGREEMENT[dtype], f"{name} is {distance:.1e} away from torch"


def benchmark_op(op: str, eager: Callable[..., Any]) -> Callable[..., None]:
    """A pytest-benchmark test of one contestant at one shape, hot or cold; correctness first.

    bench/conftest.py parametrises it.
    """

    @torch.no_grad()
    def test(benchmark, shape: Shape, name: str, cold: bool):
        inputs = inputs_for(shape, torch.float32, "cpu", cold)
        run = contestant(name, op, eager, "cpu")
        check(name, run(**inputs[0]), eager(**inputs[0]), torch.float32)
        benchmark.group = f"{shape}, {'cold' if cold else 'hot'}"
        turn = itertools.cycle(inputs)
        benchmark(lambda: run(**next(turn)))

    test.op = op
    return test
