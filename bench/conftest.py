"""Options and parameters of the benchmarks; run them with `python -m pytest bench/ops`."""

import pytest
import torch

from pyengine.bench.shapes import SHAPES, TINY

from .ops.contest import CONTESTANTS


def pytest_addoption(parser):
    parser.addoption("--tiny", action="store_true", help="one tiny shape per op: do they work?")
    parser.addoption("--no-compile", action="store_true", help="leave torch.compile out")
    parser.addoption("--threads", type=int, default=2)


def pytest_generate_tests(metafunc):
    """Every shape of the op, hot and cold, contestant after contestant."""
    if not hasattr(metafunc.function, "op"):
        return
    option = metafunc.config.getoption
    shapes = (TINY if option("tiny") else SHAPES)[metafunc.function.op]
    names = [name for name in CONTESTANTS if not (name == "torch.compile" and option("no_compile"))]
    metafunc.parametrize("name", names)
    metafunc.parametrize("cold", [False] if option("tiny") else [False, True])
    metafunc.parametrize("shape", shapes, ids=str)


@pytest.fixture(autouse=True)
def threads(request):
    torch.set_num_threads(request.config.getoption("threads"))
