"""A process may fork after kernels and torch have computed: children compute, and nobody hangs."""

import os
import shutil
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")

SETUP = """
import os, sys, threading, time, warnings
import multiprocessing as mp
import torch
from pyengine import ops
from pyengine.ops._core import core

torch.set_num_threads(2)
torch.manual_seed(0)
x, w = torch.randn(4, 32, 32, 64), torch.ones(64)
a = torch.randn(600, 600)

def compute():
    "Our kernels, and torch on both of its threads."
    y = ops.group_norm_silu(x, w, w, 8)
    picture = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), torch.ones(8, 64, 3, 3))
    return [y, ops.layer_norm(y, w, w), a @ a, torch.cat([a, a]).exp(), picture]

def same(one, other):
    return all(torch.equal(p, q) for p, q in zip(one, other, strict=True))

expected = compute()

def child(work):
    "The exit status of work() in a forked child, which may take 50 seconds."
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if work() else 3)
        finally:
            os._exit(4)
    for _ in range(1000):
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "hangs"
"""


def run(code, seconds=180, **environment):
    """What the code prints after SETUP, in a process of its own that must end in time."""
    done = subprocess.run(
        [sys.executable, "-c", SETUP + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_child_and_parent_compute_on_both_threads():
    code = """
    def work():
        before = core().pool_threads()
        right = same(compute(), expected)
        return right and before == 0 and core().pool_threads() == 1 == torch.get_num_threads() - 1
    print(child(work), child(work), same(compute(), expected), core().pool_threads())
    """
    assert run(code) == "0 0 True 1"


def test_child_of_a_child():
    code = """
    right = lambda: same(compute(), expected)
    print(child(lambda: right() and child(right) == 0))
    """
    assert run(code) == "0"


def test_children_end_as_processes_do():
    """Through the interpreter's end, with the threads that they have started."""
    code = """
    pid = os.fork()
    if pid == 0:
        sys.exit(0 if same(compute(), expected) else 3)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    assert run(code) == "0"


def test_pools_and_processes_of_multiprocessing():
    code = """
    def task(_):
        return same(compute(), expected)
    context = mp.get_context("fork")
    with context.Pool(2) as pool:
        print(pool.map_async(task, range(4)).get(30))
    process = context.Process(target=task, args=(0,))
    process.start(); process.join(30)
    print(process.exitcode)
    """
    assert run(code).split("\n") == ["[True, True, True, True]", "0"]


def test_fork_in_a_thread_while_others_compute():
    """The child's only thread is the one that forked; the others were in kernels, in arenas, and in
    torch, at any moment.
    """
    code = """
    stop, wrong, results = threading.Event(), [], []
    arena = ops.Arena(64 << 20)
    def others():
        while not stop.is_set():
            with arena.use():
                if not same(compute(), expected): wrong.append(1)
    def forks():
        same(compute(), expected)
        def work():
            with arena.use():
                return same([f() for f in KERNELS], kernels)
        results.extend(child(work) for _ in range(8))
    big = torch.randn(64, 32, 32, 64)
    KERNELS = [lambda: ops.group_norm_silu(big, w, w, 8), lambda: ops.layer_norm(x, w, w)]
    kernels = [f() for f in KERNELS]
    threads = [threading.Thread(target=others) for _ in range(2)]
    for thread in threads: thread.start()
    forking = threading.Thread(target=forks); forking.start(); forking.join()
    stop.set()
    for thread in threads: thread.join()
    print(results, wrong)
    """
    assert run(code) == "[0, 0, 0, 0, 0, 0, 0, 0] []"


def test_the_parent_has_its_threads_after_a_fork():
    """Its pool's are there all the time; torch's are back with torch's next call."""
    code = """
    pool = core().pool_threads()
    threads = len(os.listdir("/proc/self/task"))
    assert child(lambda: True) == 0
    assert core().pool_threads() == pool > 0
    assert same(compute(), expected)
    print(len(os.listdir("/proc/self/task")) == threads, core().pool_threads() == pool)
    """
    assert run(code) == "True True"


def test_where_openmp_cannot_start_again_a_child_has_one_thread_and_is_told(tmp_path):
    """An old libgomp, played by a library whose omp_pause_resource_all refuses."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("makes a library: needs a C compiler")
    source, library = tmp_path / "old.c", tmp_path / "old.so"
    source.write_text("int omp_pause_resource_all(int kind) { return -1; }\n")
    subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    code = """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pid = os.fork()
    if pid == 0:
        right = same(compute(), expected) and torch.get_num_threads() == 1
        told = [str(c.message) for c in caught if c.category is RuntimeWarning]
        print(right, len(told), "forked" in told[0] and "one thread" in told[0], flush=True)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    print(same(compute(), expected), torch.get_num_threads(), len(caught))
    """
    preloaded = f"{os.environ.get('LD_PRELOAD', '')} {library}".strip()  # sanitizers come first
    assert run(code, LD_PRELOAD=preloaded).split("\n") == ["True 1 True", "True 2 0"]
