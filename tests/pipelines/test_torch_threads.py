"""A picture of the models that ship wakes none of torch's threads, which wait for each other."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="counts threads in /proc/self/task"
)

CODE = """
import ctypes, os, torch, pyengine
from pyengine import ops
torch.set_num_threads(2)
runtime = ctypes.CDLL(ops.openmp_runtimes()[0])
for name in ("emoji", "emoji-ar"):
    pipe = pyengine.from_pretrained(name, device="cpu")
    def picture(seed):
        pipe("a red heart", seed=seed, progress=False)
    assert runtime.omp_pause_resource_all(2) == 0  # ends torch's threads
    threads = len(os.listdir("/proc/self/task")) - ops._core.core().pool_threads()
    picture(1)
    picture(2)
    threads += ops._core.core().pool_threads()
    started = len(os.listdir("/proc/self/task")) - threads
    (torch.ones(300, 300) @ torch.ones(300, 300)).exp()
    print(name, started, len(os.listdir("/proc/self/task")) - threads)
"""


def test_a_picture_needs_no_threads_of_torchs():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:2] == ["emoji 0 1", "emoji-ar 0 1"]
