"""The kernels' pool of threads: how many, for callers at once, and always the same bits."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pyengine import errors, ops
from pyengine.ops._core import core

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self")


def run(code, seconds=180, **environment):
    """What the code prints, in a process of its own that must end in time."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def calls():
    """Ops whose loops are shared out in each of the ways that there are."""
    generator = torch.Generator().manual_seed(5)

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    x, ones = randn(2, 41, 37, 96), torch.ones(96)
    filters, weight = ops.pack_filters(randn(64, 96, 3, 3)), ops.pack_weight(randn(160, 96))
    wide = ops.pack_filters(randn(40, 96, 1, 1))
    rows, codebook = randn(900, 8), randn(1000, 8)
    q = randn(2, 150, 96)
    logits, uniform = randn(64, 999), torch.rand(64, generator=generator, dtype=torch.float64)
    # guidance, temperature, top_k, top_p, min_p
    settings = torch.tensor([[1.0, 1.0, 50.0, 0.9, 0.0]]).repeat(64, 1)
    return {
        "group_norm_silu": lambda: ops.group_norm_silu(x, ones, ones, 8),
        "layer_norm": lambda: ops.layer_norm(x, ones, ones),
        "geglu": lambda: ops.geglu(x),
        "conv2d": lambda: ops.conv2d(x, filters, padding=(1, 1, 1, 1)),
        "conv2d 1x1": lambda: ops.conv2d(x, wide),
        "linear": lambda: ops.linear(x.view(-1, 96), weight),
        "attention": lambda: ops.attention(q, q, q, 4),
        "vq_argmin": lambda: ops.vq_argmin(rows, codebook),
        "sample_token": lambda: ops.sample_token(logits, uniform, settings),
    }


CALLS = calls()


@pytest.fixture(scope="module")
def alone():
    """Each call's result on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    results = {name: call() for name, call in CALLS.items()}
    torch.set_num_threads(before)
    return results


@pytest.mark.parametrize("name", CALLS)
def test_same_bits_on_any_number_of_threads(name, alone, use_threads):
    for count in (2, 3, 4, 1, 16, 2):  # more and fewer, and more than there are cores
        use_threads(count)
        for _ in range(3):
            assert torch.equal(CALLS[name](), alone[name]), count


def test_same_bits_from_callers_at_once(alone, use_threads):
    use_threads(3)
    names = list(CALLS) * 6
    with ThreadPoolExecutor(6) as pool:
        results = pool.map(lambda name: CALLS[name](), names)
        for name, result in zip(names, results, strict=True):
            assert torch.equal(result, alone[name]), name


def test_more_callers_than_the_pool_has_places(alone, use_threads):
    use_threads(2)
    begin, wrong = threading.Barrier(100), []

    def work():
        begin.wait()
        for _ in range(5):
            if not torch.equal(CALLS["layer_norm"](), alone["layer_norm"]):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_helpers_flush_denormals_where_their_caller_does(use_threads):
    """Whoever computes a row: the bits may depend on the caller's mode, not on who helped."""
    x = torch.full((4096, 64), 1e-40)
    gate = torch.ones(4096, 32)
    x[:, 32:] = gate
    for flush in (True, False, True):
        if not torch.set_flush_denormal(flush):
            pytest.skip("this processor cannot flush denormals")
        try:
            use_threads(1)
            expected = ops.geglu(x)
            use_threads(4)
            for _ in range(20):
                assert torch.equal(ops.geglu(x), expected)
            assert bool((expected == 0).all()) == flush
        finally:
            torch.set_flush_denormal(False)


@linux
def test_loops_use_as_many_threads_as_torch_is_told():
    """Counted by the kernel: the pool starts its threads when a loop first wants them."""
    code = (
        "import os, torch\n"
        "from pyengine import ops\n"
        "from pyengine.ops._core import core\n"
        "torch.set_num_threads(1)\n"
        "x = torch.ones(8, 32, 32, 64); w = torch.ones(64)\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "counts = []\n"
        "for n in (1, 2, 4, 2, 1):\n"
        "    torch.set_num_threads(n); before = count()\n"
        "    ops.group_norm_silu(x, w, w, 8); counts.append(count() - before)\n"
        "print(*counts, core().pool_threads())"
    )
    assert run(code) == "0 1 2 0 0 3"  # none, then one helper, then two more, which stay


@linux
def test_omp_num_threads_governs_the_loops():
    code = (
        "import torch\n"
        "from pyengine import ops\n"
        "from pyengine.ops._core import core\n"
        "ops.layer_norm(torch.ones(4096, 64), torch.ones(64), torch.ones(64))\n"
        "print(core().pool_threads(), torch.get_num_threads() - 1)"
    )
    assert run(code, OMP_NUM_THREADS="1") == "0 0"
    helpers, torchs = run(code, OMP_NUM_THREADS="2").split()
    assert helpers == torchs == "1"


@linux
def test_threads_that_the_system_refuses_are_done_without():
    """Address space for three results of 0.5 MB, two are made, and none for a stack, of 2 MB."""
    code = (
        "import resource, torch\n"
        "from pyengine import ops\n"
        "from pyengine.ops._core import core\n"
        "torch.set_num_threads(1)\n"
        "x, w = torch.randn(2048, 64), torch.ones(64)\n"
        "expected = ops.layer_norm(x, w, w)\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 19), -1))\n"
        "torch.set_num_threads(4)\n"
        "results = [ops.layer_norm(x, w, w) for _ in range(2)]\n"
        "few = core().pool_threads()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n"
        "import time; time.sleep(1.1)\n"
        "results.append(ops.layer_norm(x, w, w))\n"
        "many = core().pool_threads()\n"
        "print(all(torch.equal(result, expected) for result in results), few, many)"
    )
    assert run(code) == "True 0 3"


@linux
@pytest.mark.skipif(
    bool(core().SANITIZERS),
    reason="sanitizers need address space of their own, which the limit takes away",
)
def test_working_memory_that_is_not_there_is_an_error_in_words():
    code = (
        "import resource, torch\n"
        "from pyengine import errors, ops\n"
        "torch.set_num_threads(1)\n"
        "x = torch.zeros(1, 2304, 8 * 8)\n"
        "ops.attention(x[:, :64], x[:, :64], x[:, :64], 8)\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 20), -1))\n"
        "try: ops.attention(x, x, x, 8)\n"
        "except errors.OutOfMemoryError as error: print(error)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (-1, -1))\n"
        "print(ops.attention(x, x, x, 8).abs().max().item())"
    )
    words, after = run(code).splitlines()
    assert "working memory" in words
    assert after == "0.0"
    assert issubclass(errors.OutOfMemoryError, MemoryError)


def test_the_process_ends_while_kernels_run():
    """Daemon threads are in kernels when the interpreter goes. (Waiting for the GIL in torch's own
    calls they would abort the process, so there are none here.)
    """
    code = (
        "import threading, time, torch\n"
        "from pyengine import _core\n"
        "x, w = torch.ones(1 << 16, 64), torch.ones(64)\n"
        "y = torch.empty_like(x)\n"
        "at = {n: t.data_ptr() for n, t in dict(x=x, weight=w, bias=w, y=y).items()}\n"
        "args = _core.LayerNormArgs(**at, rows=1 << 16, width=64, eps=1e-5)\n"
        "def work():\n"
        "    while True: _core.layer_norm(args, 0, 3)\n"
        "for _ in range(2): threading.Thread(target=work, daemon=True).start()\n"
        "time.sleep(0.3); print('end')"
    )
    for _ in range(3):
        assert run(code) == "end"


@linux
def test_threads_that_wait_use_no_time():
    code = (
        "import time, torch\n"
        "from pyengine import ops\n"
        "torch.set_num_threads(4)\n"
        "x, w = torch.ones(4096, 64), torch.ones(64)\n"
        "ops.layer_norm(x, w, w); time.sleep(0.1)\n"
        "before = time.process_time(); time.sleep(0.5)\n"
        "print(time.process_time() - before < 0.05)"
    )
    assert run(code) == "True"
