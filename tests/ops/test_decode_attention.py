"""What decode_attention does beyond the promises."""

import pytest
import torch
from gpu_cases import widen
from instruction_sets import ISAS

from pyengine import ops
from pyengine.errors import RequestError


def _inputs(n=3, rows=4, heads=6, kv_heads=2, d=20, most=200, dtype=torch.float32):
    g = torch.Generator().manual_seed(3)
    q = torch.randn(n, rows, heads * d, generator=g).to(dtype)
    keys, values = torch.randn(2, n, most, kv_heads * d, generator=g).to(dtype)
    lengths = torch.tensor([0, 63, most - rows])[:n]
    return {"q": q, "keys": keys, "values": values, "lengths": lengths, "heads": heads}


@pytest.mark.parametrize("isa", ISAS)
def test_a_tokens_bits_depend_on_what_it_sees_alone(isa, use_isa, use_threads):
    """Not on what else the cache holds or could, nor on how many tokens come at once."""
    use_isa(isa)
    given = _inputs(rows=11)
    together = ops.decode_attention(**given)
    for i in range(11):
        one = given | {"q": given["q"][:, i : i + 1], "lengths": given["lengths"] + i}
        for threads in (1, 2, 5):
            use_threads(threads)
            assert torch.equal(ops.decode_attention(**one)[:, 0], together[:, i])
    for n in range(3):
        seen = int(given["lengths"][n]) + 11
        alone = {k: v[n : n + 1] for k, v in given.items() if isinstance(v, torch.Tensor)}
        for more in (0, 1, 70):
            for name in ("keys", "values"):
                rest = torch.full((1, more, 40), float("nan"))
                alone[name] = torch.cat([given[name][n : n + 1, :seen], rest], dim=1)
            assert torch.equal(ops.decode_attention(**alone, heads=6)[0], together[n])


def test_heads_of_a_group_look_at_the_same_keys():
    given = _inputs()
    wide = {
        name: given[name].unflatten(2, (2, 20)).repeat_interleave(3, dim=2).flatten(2)
        for name in ("keys", "values")
    }
    assert torch.equal(ops.decode_attention(**given), ops.decode_attention(**given | wide))


def test_causal_attention_from_an_empty_cache():
    given = _inputs(kv_heads=6, rows=150, most=150)
    given["lengths"] = torch.zeros(3, dtype=torch.int64)
    want = ops.attention(given["q"], given["keys"], given["values"], 6, causal=True)
    torch.testing.assert_close(ops.decode_attention(**given), want, atol=2e-6, rtol=2e-6)


def test_strided_queries_and_caches():
    given = _inputs()
    wide = torch.randn(3, 4, 500)
    wide[..., 7:127] = given["q"]
    store = torch.randn(3, 220, 100)
    store[:, 3:203, 5:45] = given["keys"]
    strided = {"q": wide[..., 7:127], "keys": store[:, 3:203, 5:45]}
    assert torch.equal(ops.decode_attention(**given), ops.decode_attention(**given | strided))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_key_spoils_the_rows_that_see_it(value):
    given = _inputs(n=1)
    given["keys"][0, 2, 3] = value
    got = ops.decode_attention(**given)
    want = ops.reference.decode_attention(**widen(given))
    torch.testing.assert_close(got, want.float(), equal_nan=True)
    assert got.isnan().any()
    assert got[0, 0].isfinite().all()


def test_empty_batches():
    given = _inputs()
    none = {k: v[:0] for k, v in given.items() if isinstance(v, torch.Tensor)}
    assert ops.decode_attention(**none, heads=6).shape == (0, 4, 120)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("length", [-1, 197])
def test_rows_beyond_the_cache_are_refused(backend, length):
    given = _inputs()
    given["lengths"][1] = length
    with (
        ops.force(backend),
        pytest.raises(RequestError, match=f"lengths: expected 0 to 196 .*got {length} for row 1"),
    ):
        ops.decode_attention(**given)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"q": torch.ones(3, 120)}, "q: expected 3 dimensions"),
        ({"heads": 7}, "q: expected a width divisible by 7 heads"),
        ({"keys": torch.ones(3, 200, 30)}, "keys: expected a width divisible by 20, a head's"),
        ({"values": torch.ones(3, 199, 40)}, r"values: expected shape \[3, 200, 40\]"),
        ({"values": torch.ones(3, 200, 40).half()}, "values: expected the keys' dtype"),
        ({"lengths": torch.ones(3)}, "lengths: expected int64"),
        (
            {"keys": torch.ones(3, 200, 80), "values": torch.ones(3, 200, 80)},
            "heads: expected a multiple of the keys' 4, got 6",
        ),
    ],
)
def test_refusals(change, complaint):
    with pytest.raises(RequestError, match=f"decode_attention: {complaint}"):
        ops.decode_attention(**_inputs() | change)
