"""The arena that results of the CPU's ops are taken from."""

import gc
import threading

import pytest
import torch

from pyengine import ops
from pyengine.ops import _memory
from pyengine.ops._core import core

SHAPE = (2, 64, 64, 32)  # 1 MB of float32


def used(arena):
    return arena.statistics()["used"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_tensor_of_an_arena_is_a_tensor(dtype):
    arena = ops.Arena()
    with arena.use():
        x = _memory.empty(SHAPE, dtype)
    assert (x.shape, x.dtype, x.device.type) == (SHAPE, dtype, "cpu")
    assert x.is_contiguous()
    assert x.data_ptr() % 64 == 0
    assert used(arena) == x.nbytes
    x.fill_(3)
    assert torch.equal(x, torch.full(SHAPE, 3.0, dtype=dtype))


def test_memory_goes_back_with_the_last_that_uses_it():
    arena = ops.Arena()
    with arena.use():
        x = _memory.empty(SHAPE, torch.float32)
        begin, size = x.data_ptr(), x.nbytes
        view, numpy = x[1], x.numpy()
        del x
        y = _memory.empty(SHAPE, torch.float32)
        assert not begin <= y.data_ptr() < begin + size
        del view
        assert used(arena) == 2 * size
        del numpy
        assert used(arena) == size
        z = _memory.empty(SHAPE, torch.float32)
        assert z.data_ptr() == begin  # the lowest of equal holes
    del y, z
    assert used(arena) == 0


def test_a_result_outlives_its_arena():
    arena = ops.Arena()
    with arena.use():
        x = _memory.empty(SHAPE, torch.float32).fill_(7)
    del arena
    gc.collect()
    assert bool((x == 7).all())


def test_holes_are_joined_and_filled_without_overlap():
    """Random sizes taken and given back in random order: contents survive, nothing is lost."""
    arena = core().Arena(256 << 20)
    random = torch.Generator().manual_seed(1)
    live = {}
    for i in range(2000):
        if len(live) > 20 or (live and torch.rand(1, generator=random) < 0.4):
            key = list(live)[int(torch.randint(len(live), (1,), generator=random))]
            assert bool((live.pop(key) == key).all())
        else:
            count = int(torch.randint(1, 200_000, (1,), generator=random))
            capsule = arena.empty((count,), 0)
            live[i] = torch.utils.dlpack.from_dlpack(capsule).fill_(i)
    live.clear()
    facts = arena.statistics()
    assert (facts["used"], facts["blocks"]) == (0, 0)
    assert facts["touched"] < 3 * facts["peak"]
    everything = arena.empty((facts["reserved"] // 4,), 0)  # one hole again
    assert everything is not None


def test_what_does_not_fit_comes_from_torch():
    assert core().Arena(64 << 20).empty((1 << 40,), 0) is None
    arena = ops.Arena(64 << 20)
    with arena.use():
        x = _memory.empty((32 << 20,), torch.float32)
    assert x.shape == (32 << 20,)
    assert used(arena) == 0


def test_wrong_sizes_are_refused():
    arena = core().Arena(64 << 20)
    for shape in ((-1,), (1 << 62, 4), (1,) * 9):
        with pytest.raises(ValueError, match="arena"):
            arena.empty(shape, 0)
    with pytest.raises(ValueError, match="no dtype"):
        arena.empty((1,), 3)


def test_a_capsule_that_nobody_takes_gives_its_memory_back():
    arena = core().Arena(64 << 20)
    arena.empty((1000,), 0)
    assert arena.statistics()["used"] == 0


def test_trim_gives_pages_back_and_keeps_what_is_in_use():
    arena = ops.Arena()
    with arena.use():
        big = _memory.empty((64 << 18,), torch.float32).fill_(1)  # 64 MB
        kept = _memory.empty(SHAPE, torch.float32).fill_(5)
        del big
        arena.trim()
        again = _memory.empty((64 << 18,), torch.float32)
        assert int(again.count_nonzero()) == 0  # fresh pages
        assert bool((kept == 5).all())


def test_threads_share_an_arena_and_each_chooses_its_own():
    arena = ops.Arena()
    wrong = []

    def work(n):
        for i in range(50):
            with arena.use():
                x = ops.layer_norm(torch.full((64, 1024), float(i + n)), None, None)
            if x.abs().max() != 0:
                wrong.append((n, i))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    with arena.use():
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert not wrong
    assert used(arena) == 0


def test_ops_take_their_results_from_it():
    arena = ops.Arena()
    x = torch.randn(1, 64, 64, 32)
    with arena.use():
        y = ops.conv2d(x, torch.randn(32, 3, 3, 32), padding=(1, 1, 1, 1))
        assert used(arena) == y.nbytes
        z = ops.linear(x, torch.randn(32, 32))
        assert used(arena) == y.nbytes + z.nbytes
    outside = ops.linear(x, torch.randn(32, 32))
    assert used(arena) == y.nbytes + z.nbytes
    assert outside.shape == z.shape


def test_a_large_result_outside_of_an_arena_comes_from_a_small_spare_one(monkeypatch):
    spare = ops.Arena(64 << 20)
    monkeypatch.setattr(_memory, "_spare", spare)
    x = torch.randn(2, 64, 64, 160)  # 5 MB
    small = ops.layer_norm(x[:, :16].contiguous(), torch.ones(160), torch.zeros(160))
    assert used(spare) == 0
    y = ops.layer_norm(x, torch.ones(160), torch.zeros(160))
    assert used(spare) == y.nbytes
    most = [_memory.empty_like(y) for _ in range(20)]  # 100 MB: most come from torch
    assert used(spare) <= 64 << 20
    assert small.shape[1] == 16
    del y, most
    gc.collect()
    assert used(spare) == 0
