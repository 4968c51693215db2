"""Attention with a cache, as token models have it."""

import gc
import re
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from pyengine import ops
from pyengine.errors import RequestError
from pyengine.models.tokens import slot_memory
from pyengine.models.tokens.kv_cache import KVCache
from pyengine.models.tokens.slot_memory import SlotMemory


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (6, 6), (6, 2), (4, 1)])
def test_attention_with_a_cache(heads, kv_heads):
    """Rows of several lengths, in pieces, against plain causal attention of each alone."""
    width, lengths, most = 5, [7, 3, 1], 12
    q, k, v = (noise(3, most, n * width, seed=i) for i, n in enumerate((heads, kv_heads, kv_heads)))

    def alone(row, length):
        qh, kh, vh = (t[row, :length].unflatten(1, (-1, width)).transpose(0, 1) for t in (q, k, v))
        kh, vh = (t.repeat_interleave(heads // kv_heads, dim=0) for t in (kh, vh))
        y = F.scaled_dot_product_attention(qh, kh, vh, is_causal=True, scale=0.3)
        return y.transpose(0, 1).flatten(1)

    cache = KVCache(1, 3, most, kv_heads * width, q)
    for row, length in enumerate(lengths):  # prompts of different lengths, each by itself
        part = cache.batch_of(torch.tensor([row]), torch.tensor([0]))
        y = part.attend(0, *(t[row : row + 1, :length] for t in (q, k, v)), heads, 0.3)
        part.advance(length)
        torch.testing.assert_close(y[0], alone(row, length))
        assert part.lengths.tolist() == [length]
    cache.seat([0, 1, 2], lengths)
    for step in range(4):  # then together, one by one
        at = [n + step for n in lengths]
        new = [torch.stack([t[row, i : i + 1] for row, i in enumerate(at)]) for t in (q, k, v)]
        y = cache.attend(0, *new, heads, 0.3)
        cache.advance(1)
        for row, i in enumerate(at):
            torch.testing.assert_close(y[row], alone(row, i + 1)[-1:])


def test_a_turned_cache_reads_the_same_one_by_one_as_together():
    tables = ops.rotary_table(torch.arange(9), 6)
    q, k, v = noise(3, 2, 9, 12)
    together, one_by_one = (KVCache(1, 2, 9, 12, q, tables) for _ in range(2))
    want = together.attend(0, q, k, v, 2, 0.4)
    for i in range(9):
        got = one_by_one.attend(0, *(t[:, i : i + 1] for t in (q, k, v)), 2, 0.4)
        one_by_one.advance(1)
        assert torch.equal(got[:, 0], want[:, i])


def test_a_slot_is_copied():
    q, k, v = noise(3, 3, 2, 8)
    cache = KVCache(2, 3, 4, 8, q)
    cache.attend(1, q, k, v, 2, 1.0)
    cache.copy_slot(2, 0, 2)
    assert torch.equal(cache.keys[1][:, :2], k[[2, 1, 2]])
    assert torch.equal(cache.values[1][:, :2], v[[2, 1, 2]])
    cache.copy_slot(1, 2, 1)  # one of its two tokens
    assert torch.equal(cache.keys[1][2, :2], torch.stack([k[1, 0], k[2, 1]]))
    assert not cache.keys[0].any()


def test_a_full_cache_is_refused():
    q, k, v = noise(3, 2, 2, 8)
    cache = KVCache(1, 2, 3, 8, q)
    cache.advance(2)
    with pytest.raises(RequestError, match="rotary_cache: lengths: expected 0 to 1"):
        cache.attend(0, q, k, v, 2, 1.0)


def test_sequences_join_and_leave_and_each_has_its_bits_alone():
    heads, width, most = 2, 6, 12
    q, k, v = noise(3, 6, most, heads * width)
    tables = ops.rotary_table(torch.arange(most), width)

    def attend(cache, rows, at):
        new = [
            torch.stack([t[row, i : i + 1] for row, i in zip(rows, at, strict=True)])
            for t in (q, k, v)
        ]
        y = cache.attend(0, *new, heads, 0.4)
        cache.advance(1)
        return y[:, 0]

    alone = []
    for row in range(6):
        cache = KVCache(1, 1, most, heads * width, q, tables)
        alone.append([attend(cache, [row], [i])[0] for i in range(most)])

    cache = KVCache(1, 0, most, heads * width, q, tables, slots=4)
    memory = [t.data_ptr() for t in (*cache.keys, *cache.values)]
    waiting, batch, at, longest = list(range(6)), [], {}, 0
    free, slot = [2, 0, 3, 1], {}
    for tick in range(200):
        if waiting and free and tick % 2 == 0:
            row = waiting.pop(0)
            batch.append(row)
            at[row], slot[row] = 0, free.pop(0)
        if not batch:
            break
        longest = max(longest, len(batch))
        cache.seat([slot[row] for row in batch], [at[row] for row in batch])
        got = attend(cache, batch, [at[row] for row in batch])
        for row, y in zip(batch, got, strict=True):
            assert torch.equal(y, alone[row][at[row]]), (tick, row)
            at[row] += 1
        free += [slot[row] for row in batch if at[row] == most - row]
        batch = [row for row in batch if at[row] < most - row]
        if tick % 3 == 0:
            batch.reverse()  # a batch has no order of its own
    assert (waiting, batch, longest) == ([], [], 4)
    assert [t.data_ptr() for t in (*cache.keys, *cache.values)] == memory


def test_batches_of_any_slots_in_any_order():
    """Any slots in any order, of any lengths: the bits of each sequence alone."""
    heads, width, most = 2, 6, 12
    q, k, v = noise(3, 4, most, heads * width)
    tables = ops.rotary_table(torch.arange(most), width)
    alone = KVCache(1, 4, most, heads * width, q, tables)
    want = alone.attend(0, q, k, v, heads, 0.4)
    cache = KVCache(1, 0, most, heads * width, q, tables, slots=7)
    slots, at = [5, 0, 6, 2], [0, 0, 0, 0]
    generator = torch.Generator().manual_seed(3)
    lengths = cache.seat([0], [0]).lengths.data_ptr()
    while min(at) < most:
        rows = [r for r in torch.randperm(4, generator=generator).tolist() if at[r] < most]
        rows = rows[: int(torch.randint(1, 5, (1,), generator=generator))]
        new = [torch.stack([t[r, at[r] : at[r] + 1] for r in rows]) for t in (q, k, v)]
        where = [slots[r] for r in rows], [at[r] for r in rows]
        if len(rows) % 2:
            batch = cache.seat(*where)
            assert batch.lengths.data_ptr() == lengths
        else:
            batch = cache.batch_of(*map(torch.tensor, where))
        y = batch.attend(0, *new, heads, 0.4)
        for row, got in zip(rows, y, strict=True):
            assert torch.equal(got[0], want[row, at[row]])
            at[row] += 1


def resident():
    """Bytes of this process's memory that are in the machine's."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10


@pytest.mark.skipif(sys.platform != "linux", reason="address space is reserved on Linux")
def test_slots_take_memory_while_they_are_used():
    size = 5 << 20
    gc.collect()
    before = resident()
    memory = SlotMemory(4000, (5, 1 << 18), torch.empty(0))  # 20 GB of address space
    assert resident() < before + size
    for slot in (0, 17, 3999):
        memory.tensor[slot] = 1.0
    assert before + 2.5 * size < resident() < before + 4 * size
    for slot in (0, 3999):
        memory.forget(slot)
    assert resident() < before + 2 * size
    assert (memory.tensor[17] == 1).all()
    assert not memory.tensor[3999].any()
    del memory
    gc.collect()
    assert resident() < before + size


def test_slots_are_zeros_and_keep_apart(monkeypatch):
    for reserves in (True, False):
        monkeypatch.setattr(slot_memory, "reserves", lambda device, reserves=reserves: reserves)
        for dtype in (torch.float32, torch.bfloat16):
            memory = SlotMemory(3, (2, 2, 5, 7), torch.empty(0, dtype=dtype))
            assert memory.tensor.shape == (3, 2, 2, 5, 7)
            assert not memory.tensor.any()
            memory.tensor[1] = 2.0
            assert not memory.tensor[[0, 2]].any()
            memory.forget(0)
            assert (memory.tensor[1] == 2).all()


@pytest.mark.skipif(sys.platform != "linux", reason="address space is reserved on Linux")
def test_more_than_there_is_address_space():
    with pytest.raises(MemoryError, match="cannot allocate memory: "):
        SlotMemory(1 << 40, (1 << 30,), torch.empty(0))


def test_what_is_recorded_of_a_batch_serves_others_of_as_many_sequences(monkeypatch):
    noted = []
    note = ops._replay._Recording.note
    monkeypatch.setattr(
        ops._replay._Recording, "note", lambda self, *given: noted.append(1) or note(self, *given)
    )
    owner = torch.nn.Linear(8, 8)
    cache = KVCache(1, 3, 40, 8, noise(1, 8))

    def step():
        x = noise(len(cache), 1, 8)
        with torch.no_grad():
            y = cache.through(owner, lambda x, cache: cache.attend(0, x, x, x, 2, 0.5), x)
        cache.advance(1)
        return y

    for _ in range(3):
        step()
    for i in range(3):
        cache.seat([2, 0], [3, i])
        step()
    assert len(noted) == 2  # of three rows, and of two
    for i in range(3):
        cache.seat([1, 2, 0], [i, 3, i])
        step()
        cache.seat([0, 1], [i, i + 1])
        step()
    assert len(noted) == 2
