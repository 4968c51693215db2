"""What rotary and rotary_cache do beyond the promises, and their tables."""

import pytest
import torch
from instruction_sets import ISAS

from pyengine import ops
from pyengine.errors import RequestError


def _rotary(n=2, rows=3, heads=2, d=10, places=40):
    g = torch.Generator().manual_seed(1)
    cosines, sines = ops.rotary_table(torch.arange(places), d, 100.0)
    return {
        "x": torch.randn(n, rows, heads * d, generator=g),
        "cosines": cosines,
        "sines": sines,
        "positions": torch.randint(0, places, (n, rows), generator=g),
        "heads": heads,
    }


def _cache(n=3, rows=2, heads=4, kv_heads=2, d=10, most=20, dtype=torch.float32, cache=None):
    g = torch.Generator().manual_seed(2)
    fused = torch.randn(n, rows, (heads + 2 * kv_heads) * d, generator=g).to(dtype)
    q, k, v = fused.split((heads * d, kv_heads * d, kv_heads * d), dim=-1)
    cosines, sines = ops.rotary_table(torch.arange(most), d)
    return {
        "q": q,
        "k": k,
        "v": v,
        "keys": torch.full((n, most, kv_heads * d), 7.0).to(cache or dtype),
        "values": torch.full((n, most, kv_heads * d), 8.0).to(cache or dtype),
        "lengths": torch.tensor([0, 5, most - rows]),
        "heads": heads,
        "cosines": cosines,
        "sines": sines,
    }


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_cache_gets_what_rotary_makes_of_it_and_nothing_else(isa, turned, dtype, use_isa):
    use_isa(isa)
    given = _cache(dtype=dtype)
    if not turned:
        given |= {"cosines": None, "sines": None}
    places = given["lengths"][:, None] + torch.arange(2)
    wanted = {"keys": given["keys"].clone(), "values": given["values"].clone()}
    q, k = given["q"], given["k"]
    if turned:
        tables = given["cosines"], given["sines"], places
        q, k = ops.rotary(q, *tables, 4), ops.rotary(k, *tables, 2)
    for n in range(3):
        wanted["keys"][n, places[n]] = k[n]
        wanted["values"][n, places[n]] = given["v"][n]
    assert torch.equal(ops.rotary_cache(**given), q)
    for name, want in wanted.items():
        assert torch.equal(given[name], want)


def test_a_narrower_cache_is_rounded_to_once():
    wide, narrow = _cache(), _cache(cache=torch.float16)
    ops.rotary_cache(**wide)
    ops.rotary_cache(**narrow)
    assert torch.equal(narrow["keys"], wide["keys"].half())
    assert torch.equal(narrow["values"], wide["values"].half())


def test_some_rows_of_a_cache():
    whole, part = _cache(), _cache()
    ops.rotary_cache(**whole)
    for n in range(3):
        names = ("q", "k", "v", "keys", "values", "lengths")
        ops.rotary_cache(**part | {name: part[name][n : n + 1] for name in names})
    assert torch.equal(part["keys"], whole["keys"])
    assert torch.equal(part["values"], whole["values"])


def test_turning_by_two_positions_adds_up():
    given = _rotary()
    twice = ops.rotary(**given | {"x": ops.rotary(**given)})
    table = ops.rotary_table(torch.arange(80), 10, 100.0)
    once = ops.rotary(given["x"], *table, 2 * given["positions"], 2)
    torch.testing.assert_close(twice, once, atol=1e-5, rtol=1e-5)


def test_tables_are_transformers():
    from transformers.models.llama.modeling_llama import LlamaConfig, LlamaRotaryEmbedding

    own = LlamaRotaryEmbedding(LlamaConfig(hidden_size=64, num_attention_heads=4))
    places = torch.arange(300)
    for got, want in zip(
        ops.rotary_table(places, 16), own(torch.zeros(1, 1), places[None]), strict=True
    ):
        assert torch.equal(got, want[0, :, :8])


def test_a_table_in_two_dimensions():
    """The first half of the pairs turns by the row, the second by the column."""
    grid = torch.cartesian_prod(torch.arange(5), torch.arange(7))
    for both, rows in zip(
        ops.rotary_table(grid, 24), ops.rotary_table(torch.arange(7), 12), strict=True
    ):
        assert torch.equal(both[:, :6], rows[grid[:, 0]])
        assert torch.equal(both[:, 6:], rows[grid[:, 1]])


def test_a_tables_row_does_not_depend_on_how_many_there_are():
    long = ops.rotary_table(torch.arange(1000), 6)
    for count in (0, 1, 31, 33, 999):
        for short, whole in zip(ops.rotary_table(torch.arange(count), 6), long, strict=True):
            assert torch.equal(short, whole[:count])


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("position", [-1, 40])
def test_positions_outside_the_tables_are_refused(backend, position):
    given = _rotary()
    given["positions"][1, 2] = position
    expected = f"positions: expected values from 0 to 39, got {position}"
    with ops.force(backend), pytest.raises(RequestError, match=expected):
        ops.rotary(**given)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("length", [-1, 19])
def test_a_row_without_room_is_refused_before_anything_is_written(backend, length):
    given = _cache()
    given["lengths"][1] = length
    with (
        ops.force(backend),
        pytest.raises(RequestError, match=f"lengths: expected 0 to 18 .*got {length} for row 1"),
    ):
        ops.rotary_cache(**given)
    assert (given["keys"] == 7).all()
    assert (given["values"] == 8).all()


def test_a_short_table_is_refused():
    given = _cache()
    given |= {name: given[name][:6] for name in ("cosines", "sines")}
    with pytest.raises(RequestError, match=r"lengths: expected 0 to 4 .*got 5 for row 1"):
        ops.rotary_cache(**given)


@pytest.mark.parametrize(
    ("op", "change", "complaint"),
    [
        ("rotary", {"x": torch.ones(2, 20)}, "x: expected 3 dimensions"),
        ("rotary", {"heads": 4}, "heads: expected heads of an even width, got 5"),
        ("rotary", {"sines": torch.ones(40, 4)}, r"sines: expected shape \[40, 5\]"),
        ("rotary", {"positions": torch.zeros(2, 3)}, "positions: expected int64"),
        ("rotary_cache", {"sines": None}, "sines: expected both cosines and sines or neither"),
        ("rotary_cache", {"k": torch.ones(3, 2, 10)}, r"k: expected shape \[3, 2, 20\]"),
        ("rotary_cache", {"v": torch.ones(3, 2, 20).half()}, "v: expected x's dtype"),
        ("rotary_cache", {"keys": torch.ones(3, 20, 15)}, "keys: expected a width divisible by 10"),
        ("rotary_cache", {"lengths": torch.zeros(2, dtype=torch.int64)}, "lengths: expected shape"),
    ],
)
def test_refusals(op, change, complaint):
    given = (_rotary if op == "rotary" else _cache)() | change
    with pytest.raises(RequestError, match=f"{op}: {complaint}"):
        getattr(ops, op)(**given)


@pytest.mark.parametrize(("shape", "width"), [((3, 3), 12), ((3, 2), 6), ((3,), 5), ((2, 2, 2), 8)])
def test_tables_refuse(shape, width):
    with pytest.raises(RequestError, match="rotary_table: positions: expected"):
        ops.rotary_table(torch.zeros(shape), width)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("slots", "complaint"),
    [
        ([0, 4, 1], "expected 0 to 3, got 4"),
        ([-1, 2, 1], "expected 0 to 3, got -1"),
        ([2, 0, 2], "expected another slot for every row, got 2 twice"),
    ],
)
def test_slots_that_a_row_has_not_for_itself_are_refused_by_both(backend, slots, complaint):
    given = _cache()
    for name in ("keys", "values"):
        given[name] = torch.cat([given[name], given[name][:1]])
    given["slots"] = torch.tensor(slots)
    before = given["keys"].clone()
    read = {name: given[name] for name in ("q", "keys", "values", "lengths", "heads", "slots")}
    with ops.force(backend):
        with pytest.raises(RequestError, match=f"rotary_cache: slots: {complaint}"):
            ops.rotary_cache(**given)
        with pytest.raises(RequestError, match=f"decode_attention: slots: {complaint}"):
            ops.decode_attention(**read)
    assert torch.equal(given["keys"], before)


def test_slots_of_another_shape_or_dtype_are_refused():
    given = _cache()
    for slots, complaint in (
        (torch.zeros(2, dtype=torch.int64), r"slots: expected shape \[3\]"),
        (torch.zeros(3, dtype=torch.int32), "slots: expected int64"),
    ):
        with pytest.raises(RequestError, match=complaint):
            ops.rotary_cache(**given, slots=slots)
