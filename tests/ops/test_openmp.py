"""One OpenMP runtime in the process, whichever import comes first; torch governs its threads."""

import subprocess
import sys

import pytest
import torch

from pyengine import ops
from pyengine.ops._core import core

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")


def _run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@linux
@pytest.mark.parametrize("imports", ["torch, pyengine._core", "pyengine._core, torch"])
def test_there_is_one_openmp_runtime(imports):
    code = (
        f"import {imports}\n"
        "from pyengine import ops\n"
        "x = torch.randn(2, 64, 64, 64)\n"
        "ops.group_norm_silu(x, *torch.ones(2, 64), 8); x @ x\n"
        "print(len(ops.openmp_runtimes()), *ops.openmp_runtimes())"
    )
    assert _run(code).split()[0] == "1"


@linux
def test_loops_use_as_many_threads_as_torch_is_told():
    """Counted by the kernel: a runtime starts its threads when a loop first wants them."""
    code = (
        "import os, torch\n"
        "from pyengine import ops\n"
        "torch.set_num_threads(1)\n"
        "x = torch.ones(8, 32, 32, 64); w = torch.ones(64)\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "counts = []\n"
        "for n in (1, 2, 4):\n"
        "    torch.set_num_threads(n); before = count()\n"
        "    ops.group_norm_silu(x, w, w, 8); counts.append(count() - before)\n"
        "print(*counts)"
    )
    assert _run(code) == "0 1 2"  # none, then one helper, then two more


def test_the_runtime_was_found():
    assert core().has_openmp()
    if sys.platform.startswith("linux"):
        assert len(ops.openmp_runtimes()) == 1


def test_loops_in_several_python_threads_at_once():
    """Each Python thread leads a team of its own."""
    from concurrent.futures import ThreadPoolExecutor

    x, w = torch.randn(2, 40, 40, 96), torch.ones(96)
    expected = ops.group_norm_silu(x, w, w, 8)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: ops.group_norm_silu(x, w, w, 8), range(8)))
    assert all(torch.equal(result, expected) for result in results)
