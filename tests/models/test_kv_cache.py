"""Attention with a cache, as token models have it."""

import pytest
import torch
import torch.nn.functional as F

from pyengine import ops
from pyengine.errors import RequestError
from pyengine.models.kv_cache import KVCache


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
        part = cache[row : row + 1]
        y = part.attend(0, *(t[row : row + 1, :length] for t in (q, k, v)), heads, 0.3)
        part.advance(length)
        torch.testing.assert_close(y[0], alone(row, length))
    assert cache.lengths.tolist() == lengths
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


def test_rows_are_kept_and_copied():
    q, k, v = noise(3, 3, 2, 8)
    cache = KVCache(2, 3, 4, 8, q)
    cache.attend(1, q, k, v, 2, 1.0)
    cache[1:3].advance(2)
    cache.copy_row(2, 0)
    assert cache.lengths.tolist() == [2, 2, 2]
    cache.keep(torch.tensor([0, 1]))
    assert torch.equal(cache.keys[1][:, :2], k[[2, 1]])
    assert torch.equal(cache.values[1][:, :2], v[[2, 1]])


def test_a_full_cache_is_refused():
    q, k, v = noise(3, 2, 2, 8)
    cache = KVCache(1, 2, 3, 8, q)
    cache.advance(2)
    with pytest.raises(RequestError, match="rotary_cache: lengths: expected 0 to 1"):
        cache.attend(0, q, k, v, 2, 1.0)
