"""Slots that jobs take and give back, of one cache with room for more."""

import gc
import threading

import pytest
import torch

from pyengine.decoding import slots
from pyengine.decoding.slots import SlotPool
from pyengine.models.tokens.kv_cache import KVCache

CPU = torch.device("cpu")


def take(pool, count, most):
    (lease,) = pool.take(1, count, most)
    return lease


@pytest.fixture
def made():
    return []


@pytest.fixture
def pool(made):
    def make(count, most):
        made.append((count, most))
        return KVCache(2, 0, most, 4, torch.empty(0), slots=count)

    return SlotPool(make, 1000, CPU)


def test_what_is_given_back_is_taken_next(pool):
    leases = [take(pool, 2, 10) for _ in range(3)]
    assert [lease.slots for lease in leases] == [(0, 1), (2, 3), (4, 5)]
    leases[1].end()
    leases[1].end()  # again, which does nothing
    assert pool.held == 4
    assert sorted(take(pool, 2, 10).slots) == [2, 3]
    gc.collect()
    assert pool.held == 4  # nobody kept that lease


def test_room_for_many_is_made_once(pool, made):
    kept = [take(pool, 1, 100) for _ in range(slots.FIRST)]
    assert made == [(slots.FIRST, 128)]
    kept[3].end()
    kept.append(take(pool, 1, 128))
    assert len(made) == 1
    kept.append(take(pool, 1, 1))
    assert made[1:] == [(2 * slots.FIRST, 128)]
    assert len({lease.slots for lease in kept if lease.slots}) == slots.FIRST + 1


def test_growing_is_seldom_and_keeps_what_is_held(pool, made, monkeypatch):
    monkeypatch.setattr(pool, "_least", 1)
    kept = []
    for i in range(50):
        kept.append(take(pool, 1, 1 + 3 * i))
        kept[-1].tokens = 1 + 3 * i
        (slot,) = kept[-1].slots
        pool.cache.memory.tensor[slot, :, :, : 1 + 3 * i] = float(i + 1)
    assert len(made) <= 10
    for i, lease in enumerate(kept):
        assert (pool.cache.memory.tensor[lease.slots[0], :, :, : 1 + 3 * i] == i + 1).all()
    assert max(most for _, most in made) < 300


def test_room_for_a_call_is_made_at_once(pool, made):
    leases = pool.take(50, 2, 10)
    assert made == [(2 * slots.FIRST, 64)]
    assert sorted(slot for lease in leases for slot in lease.slots) == list(range(100))
    assert pool.promised == 1000


def test_only_tokens_in_use_are_copied(pool, made):
    lease, unused = pool.take(2, 1, 20)
    pool.cache.memory.tensor[[0, 1]] = 1.0
    lease.tokens = 7
    kept = pool.take(1, slots.FIRST, 20)
    assert len(made) == 2
    memory = pool.cache.memory.tensor
    assert (memory[lease.slots[0], :, :, :7] == 1).all()
    assert not memory[lease.slots[0], :, :, 7:].any()
    assert not memory[unused.slots[0]].any()
    assert len(kept[0].slots) == slots.FIRST


def test_no_longer_than_a_model_reads(pool, made):
    take(pool, 1, 1000)
    assert made == [(slots.FIRST, 1000)]


def test_a_process_that_may_not_have_so_much_address_space(made):
    def make(count, most):
        if count > 2 or most > 10:
            raise MemoryError("cannot allocate memory")
        made.append((count, most))
        return KVCache(1, 0, most, 4, torch.empty(0), slots=count)

    pool = SlotPool(make, 1000, CPU)
    kept = [take(pool, 1, 10), take(pool, 1, 9)]
    assert made == [(1, 10), (2, 10)]
    with pytest.raises(MemoryError):
        take(pool, 1, 5)
    kept.pop().end()
    assert take(pool, 1, 5).slots == (1,)


def test_cleared_only_where_nobody_holds_a_slot(pool):
    lease = take(pool, 1, 10)
    pool.clear()
    assert pool.cache is not None
    lease.end()
    pool.clear()
    assert pool.cache is None
    assert take(pool, 1, 10).slots == (0,)


def test_leases_end_in_any_thread(pool):
    """Each slot belongs to one lease at a time; all come back."""
    double = []

    def work(seed):
        generator = torch.Generator().manual_seed(seed)
        kept = []
        for _ in range(300):
            if kept and int(torch.randint(2, (1,), generator=generator)):
                lease = kept.pop()
                for slot in lease.slots:
                    if owner[slot] is not lease:
                        double.append(slot)
                if int(torch.randint(2, (1,), generator=generator)):
                    lease.end()
            elif len(kept) < 8:
                kept.append(take(pool, 2, 8))
                owner.update(dict.fromkeys(kept[-1].slots, kept[-1]))

    owner = {}
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    owner.clear()
    gc.collect()
    assert not double
    assert pool.held == 0


def test_a_lease_that_the_collector_ends_within_a_call(pool, made, monkeypatch):
    """The lock is held then: the slots come back with the next call."""
    lease = take(pool, 2, 10)
    with pool._lock:
        del lease
        gc.collect()
    assert pool._held
    assert pool.held == 0
