"""How the tests run: import paths, threads and processes, and which of them `--quick` takes.

`make test` runs one process a core with pytest-xdist; `pytest` alone is one process.
"""

import math
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# Last, so that an installed pyengine comes before the source tree's. pytest adds this folder.
sys.path.append(str(Path(__file__).resolve().parent.parent))

# One thread a process, and of the processes that it starts: pictures are tiny, and the cores belong
# to as many test processes. What is said of more threads is tested with use_threads; the passive
# wait keeps OpenMP's idle threads, torch's too, from spinning on a neighbour's core. torch is not
# imported yet: it reads both when it is.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# What torch.compile made for another ATEN_CPU_CAPABILITY computes nonsense (torch 2.13), and its
# cache does not tell them apart.
if capability := os.environ.get("ATEN_CPU_CAPABILITY"):
    cache = Path(tempfile.gettempdir()) / f"torchinductor_tests_{os.getuid()}_{capability}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))

# A shell that starts a job in the background has it ignore Ctrl-C; its children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes decides no test, and every run draws the same ones: a stranger's first
# run is no time to find a new fault. HYPOTHESIS_SEED=random looks for them.
settings.register_profile(
    "pyengine", deadline=None, derandomize=os.environ.get("HYPOTHESIS_SEED") != "random"
)
settings.load_profile("pyengine")

#: Processes of `-n auto`: a core each, while memory lasts (some 2 GB each).
MOST_PROCESSES = 8
#: Seconds, on a quiet machine, beyond which a test is to be marked slow.
SLOW = 10
#: The fewest sets of parameters of one test function that `--quick` takes, of n half the root.
QUICK_PARAMETERS = 2


def pytest_addoption(parser):
    parser.addoption(
        "--quick",
        action="store_true",
        help="of every test function a few sets of parameters, and none marked slow",
    )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    return min(len(os.sched_getaffinity(0)), MOST_PROCESSES)


def pytest_collection_modifyitems(config, items):
    """Leaves a slice of everything: whatever is written later is in it too."""
    if not config.getoption("quick"):
        return
    functions = {}
    for item in items:
        functions.setdefault(item.nodeid.split("[")[0], []).append(item)
    kept = set()
    for same in functions.values():
        # Spread evenly, first and last among them: neighbours differ in one parameter.
        last = len(same) - 1
        count = min(len(same), max(QUICK_PARAMETERS, math.isqrt(len(same)) // 2))
        kept |= {same[last * i // max(count - 1, 1)] for i in range(count)}
    kept = {item for item in kept if not item.get_closest_marker("slow")}
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = [item for item in items if item in kept]


def pytest_terminal_summary(terminalreporter):
    """What `--quick` should leave out next time."""
    marked = {"slow", "gpu"}
    for report in terminalreporter.getreports("passed"):
        if report.when == "call" and report.duration > SLOW and not marked & {*report.keywords}:
            terminalreporter.write_line(
                f"{report.nodeid} took {report.duration:.0f} s and is not marked slow"
            )


@pytest.fixture
def use_threads():
    """use_threads(n) sets torch's number of threads, and so ours, for one test."""
    import torch

    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
