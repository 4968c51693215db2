"""One OpenMP runtime in the process, torch's, whichever import comes first."""

import subprocess
import sys

import pytest

from pyengine import ops

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/maps")


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
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "1"


@linux
def test_the_kernels_bring_none():
    code = (
        "from pyengine import _core\n"
        "print('gomp' in open('/proc/self/maps').read(), _core.pool_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "0"]


@linux
def test_it_is_found_here():
    assert len(ops.openmp_runtimes()) == 1
