"""A job that joins a batch, and one that leaves it: what that costs in batches of several sizes.

    python -m pytest bench/bench_cache_slots.py --benchmark-only

The cache is of LlamaGen-B's shape, with guidance, behind 48 of 576 tokens: 7 MB a job.
"""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyengine.decoding.slots import Lease, SlotPool
from pyengine.models.tokens.kv_cache import KVCache

LAYERS, WIDTH, LENGTH = 12, 768, 576
#: Functions of torch that write to what they are given.
WRITES = ("copy_", "fill_", "index_put_", "zero_")


class Written(TorchDispatchMode):
    """Counts the bytes that torch writes to existing tensors."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in WRITES:
            self.bytes += args[0].numel() * args[0].element_size()
        return func(*args, **(kwargs or {}))


class Batch:
    """A cache that so many guided jobs are in the middle of."""

    def __init__(self, jobs: int, known: int = LENGTH // 2, layers: int = LAYERS):
        def make(slots: int, most: int) -> KVCache:
            return KVCache(layers, 0, most, WIDTH, torch.empty(0), slots=slots)

        self.pool = SlotPool(make, LENGTH, torch.device("cpu"))
        self.known = known
        self.leases: list[Lease] = []
        for _ in range(jobs):
            self.leases += self.pool.take(1, 2, LENGTH)
            self.fill()
        self.seat()

    @property
    def memory(self) -> Tensor:
        return self.pool.cache.memory.tensor

    def seat(self) -> None:
        slots = [slot for lease in self.leases for slot in lease.slots]
        self.pool.cache.seat(slots, [self.known] * len(slots))

    def leave_and_join(self) -> None:
        """The first job gives its slots back, and another takes some."""
        self.leases.pop(0).end()
        self.leases += self.pool.take(1, 2, LENGTH)

    def fill(self) -> None:
        """The job that joined last has come as far as the others."""
        for slot in self.leases[-1].slots:
            self.memory[slot, :, :, : self.known] = 1.0


def batch_of(jobs: int, tiny: bool) -> Batch:
    return Batch(jobs, known=4 if tiny else 48, layers=2 if tiny else LAYERS)


@pytest.mark.parametrize("jobs", [2, 16, 64])
def test_leave_and_join(benchmark, jobs, request):
    """A job's memory goes back to the system, and the next job's is address space."""
    tiny = request.config.getoption("tiny")
    batch = batch_of(jobs, tiny)
    with Written() as written:
        batch.leave_and_join()
    benchmark.extra_info["bytes written"] = written.bytes
    assert written.bytes == 0
    benchmark.pedantic(batch.leave_and_join, setup=batch.fill, rounds=2 if tiny else 100)


@pytest.mark.parametrize("jobs", [2, 16, 64])
def test_the_batch_of_a_step(benchmark, jobs, request):
    """What every step does: the numbers of the batch's slots and lengths are written."""
    tiny = request.config.getoption("tiny")
    batch = batch_of(jobs, tiny)

    def changed() -> None:
        batch.leases.append(batch.leases.pop(0))
        batch.seat()

    with Written() as written:
        changed()
    benchmark.extra_info["bytes written"] = written.bytes
    assert written.bytes == 2 * 2 * 8 * jobs
    benchmark.pedantic(changed, rounds=2 if tiny else 200)
