"""What linear does beyond the promises."""

import pytest
import torch

from pyengine import ops
from pyengine.errors import RequestError
from pyengine.ops._backend import choose


def test_inputs_are_left_as_they_were():
    x, residual = torch.randn(2, 3, 4)
    x2, weight = torch.randn(3, 2), torch.randn(4, 6)
    before = [t.clone() for t in (x, x2, weight, residual)]
    ops.linear(x, weight, x2=x2, activation="silu", residual=residual)
    assert all(torch.equal(a, b) for a, b in zip((x, x2, weight, residual), before, strict=True))


def test_strided_inputs():
    x, weight = torch.randn(3, 8, 5), torch.randn(7, 10)
    strided, packed = x[:, ::2], x[:, ::2].contiguous()
    torch.testing.assert_close(
        ops.linear(strided, weight, x2=strided), ops.linear(packed, weight, x2=packed)
    )


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 4), (2, 0), (0, 0)])
@pytest.mark.parametrize("activation", ["none", "geglu"])
def test_empty_inputs(shape, activation):
    x, weight, bias = torch.randn(shape), torch.randn(6, shape[-1]), torch.randn(6)
    y = ops.linear(x, weight, bias, activation=activation)
    torch.testing.assert_close(y, ops.reference.linear(x, weight, bias, activation=activation))
    assert ops.linear(x, weight[:0], bias[:0]).shape == (*shape[:-1], 0)


@pytest.mark.parametrize("activation", ["none", "geglu"])
@pytest.mark.parametrize("features", [32, 38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_and_plain_weights_give_the_same_bits(activation, features, dtype):
    x, weight, bias = torch.randn(9, 21), torch.randn(features, 21).to(dtype), torch.randn(features)
    plain = ops.linear(x, weight, bias, activation=activation)
    packed = ops.pack_weight(weight)
    assert torch.equal(ops.linear(x, packed, bias, activation=activation), plain)
    bare = ops.linear(x, packed, activation=activation, out_features=features)
    assert torch.equal(bare, ops.linear(x, weight, activation=activation))


@pytest.mark.parametrize("rows", [1, 2, 6, 7, 14, 15, 61, 250, 500])
@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512", "wide16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_rows_bits_do_not_depend_on_its_neighbours(rows, isa, dtype, use_isa, use_threads):
    """Tile heights, blocks, splits over threads and where weights are widened: all follow rows."""
    use_isa(isa)
    use_threads(1)
    x, weight = torch.randn(500, 700), ops.pack_weight(torch.randn(80, 700).to(dtype))
    together = ops.linear(x, weight)
    for threads in (1, 2, 5, 16):
        use_threads(threads)
        for first in {0, (500 - rows) // 2, 500 - rows}:
            part = ops.linear(x[first : first + rows], weight)
            assert torch.equal(part, together[first : first + rows]), (threads, first)


def test_odd_values_come_out_as_torchs():
    inf = float("inf")
    x = torch.tensor([[inf, 1.0], [-inf, 1.0], [float("nan"), 1.0], [3e38, 1.0]])
    weight = torch.ones(1, 2)
    for activation in ("none", "silu", "gelu", "quick_gelu"):
        got = ops.linear(x, weight, activation=activation)
        want = ops.reference.linear(x, weight, activation=activation)
        torch.testing.assert_close(got, want, equal_nan=True)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"weight": torch.ones(8, 5)}, r"weight: expected shape \[\*, 4\], got \[8, 5\]"),
        ({"bias": torch.ones(4)}, r"bias: expected shape \[8\], got \[4\]"),
        (
            {"activation": "relu"},
            "activation: expected one of none, silu, .*, got 'relu'",
        ),
        ({"residual": torch.ones(3, 4)}, r"residual: expected shape \[3, 8\], got \[3, 4\]"),
        ({"x2": torch.ones(2, 4)}, r"x2: expected shape \[3, \*\], got \[2, 4\]"),
        ({"weight": torch.ones(8, 4).double()}, "weight: expected x's dtype torch.float32 or"),
        ({"weight": torch.ones(8, 4, 8)}, r"weight: expected shape \[\*, 4, 16\], got \[8, 4, 8\]"),
        (
            {"weight": torch.ones(2, 4, 16), "bias": torch.ones(16)},
            "weight: expected the panels of 16 features, got 2 panels",
        ),
        ({"out_features": 7}, "out_features: expected 8, as bias or weight has it, got 7"),
        (
            {"weight": torch.ones(1, 4, 16), "out_features": 17},
            "weight: expected the panels of 17 features, got 1 panels",
        ),
        (
            {"weight": torch.ones(7, 4), "activation": "geglu"},
            "weight: expected an even number of output features for geglu, got 7",
        ),
        ({"scale": torch.ones(3, 4)}, "scale: expected both scale and shift or neither, got one"),
        (
            {"scale": torch.ones(3, 4), "shift": torch.ones(3, 5)},
            r"shift: expected shape \[3, 4\], got \[3, 5\]",
        ),
        ({"x": torch.tensor(1.0)}, "x: expected at least one dimension"),
    ],
)
def test_refusals(change, complaint):
    arguments = {"x": torch.ones(3, 4), "weight": torch.ones(8, 4)} | change
    with pytest.raises(RequestError, match=f"linear: {complaint}"):
        ops.linear(**arguments)


@pytest.mark.parametrize("shape", [(20, 7), (32, 9), (5, 3, 3, 4), (48, 1, 1, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weights_unpack_to_what_they_were(shape, dtype):
    weight = torch.randn(shape).to(dtype)
    packed = ops.pack_weight(weight)
    assert packed.shape == (-(-shape[0] // 16), *shape[1:], 16)
    assert packed.dtype == dtype
    assert packed.is_contiguous()
    assert torch.equal(ops.unpack_weight(packed, shape[0]), weight)
    assert not ops.unpack_weight(packed)[shape[0] :].any()


@pytest.mark.parametrize(
    ("shape", "more", "name"),
    [
        ((64,), {}, "triton"),
        ((16, 64), {}, "triton"),
        ((1, 64), {"silu": True, "activation": "silu"}, "triton"),
        ((17, 64), {}, "torch"),
        ((4, 4, 64), {}, "triton"),
        ((4, 5, 64), {}, "torch"),
        ((1, 64), {"x2": True}, "torch"),
    ],
)
@pytest.mark.parametrize("batch", [1, 100])
def test_a_gpus_backend_is_chosen_by_the_rows_of_one_picture(shape, more, name, batch):
    x = torch.empty(batch, *shape, device="meta")
    arguments = (x, torch.empty(8, 64, device="meta"))
    row = choose(
        "linear", ops.OPS["linear"].table, "cuda", x.dtype, False,
        lambda row: row.serves is None or row.serves(*arguments, **more),
    )  # fmt: skip
    assert row.name == name
