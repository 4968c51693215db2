"""A pytest-benchmark test of one op: the shapes, peers and checks of `pyengine bench ops`."""

import itertools
from collections.abc import Callable

import torch

from pyengine import ops
from pyengine.bench.arguments import Shape
from pyengine.bench.operations import AGREEMENT, check, compared, inputs_for, packed
from pyengine.bench.peers import torch_ops

CONTESTANTS = ("torch", "torch.compile", "pyengine")


def benchmark_op(op: str) -> Callable[..., None]:
    """One contestant at one shape, hot or cold; correctness first. conftest.py parametrises."""

    @torch.no_grad()
    def test(benchmark, shape: Shape, name: str, cold: bool):
        eager = torch_ops.EAGER[op]
        inputs = inputs_for(shape, torch.float32, "cpu", cold)
        first = inputs[0]
        expected = compared(op, first, eager(**first))
        run = {
            "torch": lambda: eager,
            "torch.compile": lambda: torch_ops.compiled(op, "cpu"),
            "pyengine": lambda: getattr(ops, op),
        }[name]()
        if name == "pyengine":
            inputs = [packed(op, one) for one in inputs]
        check(name, compared(op, first, run(**inputs[0])), expected, AGREEMENT[torch.float32])
        benchmark.group = f"{shape}, {'cold' if cold else 'hot'}"
        turn = itertools.cycle(inputs)
        benchmark(lambda: run(**next(turn)))

    test.op = op
    return test
