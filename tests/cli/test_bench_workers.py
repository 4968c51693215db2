"""Contestants in processes of their own, their turns, and what is made of their times."""

import os

import numpy as np
import pytest
import torch

from pyengine.bench import results, timing, worker
from pyengine.bench.results import OURS

pytestmark = pytest.mark.usefixtures("forked")


def broken(notes, *, threads):
    raise ZeroDivisionError("on purpose")


def dying(notes, *, threads):
    os._exit(7)


def counting(notes, *, threads, start):
    notes["threads"] = threads
    return lambda: np.arange(start, start + 3)


def test_workers():
    with worker.Worker("counting", counting, 1, start=4) as found:
        assert found.result.tolist() == [4, 5, 6]
        assert found.loaded.notes == {"threads": 1}
        assert found.sample(3) >= 0
        assert found.peaks()["peak_bytes"] > 1 << 20
    with pytest.raises(RuntimeError, match="ZeroDivisionError: on purpose"):
        worker.Worker("broken", broken, 1)
    with pytest.raises(RuntimeError, match="status 7"):
        worker.Worker("dying", dying, 1)


def test_calls_on_a_gpu_are_timed_there(monkeypatch):
    """Not the copy of the first result; in this process, with a clock that stands in."""
    asked, told = [3, "peaks"], []

    class Pipe:
        send = staticmethod(told.append)

        def recv(self):
            if not asked:
                raise EOFError
            return asked.pop(0)

    def make(notes, *, threads, device):
        return lambda: torch.ones(2, dtype=torch.bfloat16)

    def seconds(run, chosen, device):
        assert (len(chosen), device) == (3, "cuda")
        assert isinstance(run(), torch.Tensor)
        return 6.0

    monkeypatch.setattr(timing, "_cuda_seconds", seconds)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 5)
    with torch.backends.cudnn.flags():  # and back
        worker._serve(Pipe(), make, 1, {"device": "cuda"})
        assert torch.backends.cudnn.benchmark
        assert not torch.backends.cudnn.allow_tf32
    (kind, (_, result)), sample, peaks = told
    assert (kind, result.tolist(), result.dtype) == ("value", [1, 1], np.float32)
    assert sample == ("value", 2.0)
    assert peaks[1]["peak_gpu_bytes"] == 5


def test_contestants_take_turns():
    calls = []
    samplers = {n: lambda c, n=n: calls.append((n, c)) or {"a": 1.0, "b": 0.01}[n] for n in "ab"}
    times = timing.take_turns(samplers, 3)
    assert calls[-6:] == [("a", 1), ("b", 3)] * 3
    assert times["a"].samples == (1.0, 1.0, 1.0)


def test_spread_is_half_the_distance_between_quartiles():
    times = timing.Times((1.0, 2.0, 3.0, 4.0, 5.0))
    assert times.median == 3.0
    assert times.spread == pytest.approx(1 / 3)


def test_the_bound_is_the_slower_of_arithmetic_and_memory():
    limits = timing.Limits(bandwidth=10.0, peak=100.0)
    row = results.Row("ops", "x", "", "hot", 1000, 50, limits, {OURS: timing.Times((20.0, 20.0))})
    assert (row.bound, row.limited_by, row.share(OURS)) == (10.0, "arithmetic", 0.5)
    row.flops = 0
    assert (row.bound, row.limited_by, row.share(OURS)) == (5.0, "memory", None)
    row.inputs = "cold"
    assert row.share(OURS) == 0.25
