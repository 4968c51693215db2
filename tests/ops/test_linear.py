"""What linear does beyond the promises."""

import pytest
import torch
from instruction_sets import ISAS

from pyengine import ops
from pyengine.errors import RequestError
from pyengine.layers import Fused, Linear
from pyengine.ops._backend import choose
from pyengine.ops._pack import quantize_rows


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


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", ["none", "gelu", "geglu", "geglu_tanh"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_addend_of_minus_zero_and_a_gate_of_one_leave_the_bits(activation, dtype, isa, use_isa):
    """Also those of sums that are minus zero: what rows without an adapter are given."""
    use_isa(isa)
    x, weight, bias = torch.randn(5, 3, 21), torch.randn(38, 21), torch.randn(38)
    x[:, 1], bias[::3] = 0, -0.0
    x = x.to(dtype)
    plain = ops.linear(x, weight, bias, activation=activation)
    addend, gate = torch.full((5, 3, 38), -0.0, dtype=dtype), torch.ones(5, plain.shape[-1])
    joined = ops.linear(x, weight, bias, activation=activation, addend=addend, gate=gate)
    assert torch.equal(_bits(joined), _bits(plain))


def _bits(x):
    return x.view(torch.int32 if x.dtype == torch.float32 else torch.int16)


@pytest.mark.parametrize("rows", [1, 2, 6, 7, 14, 15, 61, 250, 500])
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8])
def test_a_rows_bits_do_not_depend_on_its_neighbours(rows, isa, dtype, use_isa, use_threads):
    """Tile heights, blocks, splits over threads and where weights are widened: all follow rows."""
    use_isa(isa)
    use_threads(1)
    x, weight, scale = torch.randn(500, 700), torch.randn(80, 700), None
    if dtype == torch.int8:
        weight, scale = ops.quantize_weight(weight)
    else:
        weight = ops.pack_weight(weight.to(dtype))
    if dtype == torch.bfloat16:  # both, so that it is multiplied in bfloat16 where it can be
        x = x.bfloat16()
    together = ops.linear(x, weight, weight_scale=scale)
    for threads in (1, 2, 5, 16):
        use_threads(threads)
        for first in {0, (500 - rows) // 2, 500 - rows}:
            part = ops.linear(x[first : first + rows], weight, weight_scale=scale)
            assert torch.equal(part, together[first : first + rows]), (threads, first)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("k", [1, 7, 40, 41, 120, 321, 700])
def test_8_bit_weights_are_whole_numbers_whose_sums_are_scaled(k, isa, use_isa):
    """The same bits as with the same numbers in float32, but for the one product at the end."""
    use_isa(isa)
    panels, scale = ops.quantize_weight(torch.randn(70, k))
    numbers = ops.unpack_weight(panels, 70)
    for rows in (1, 2, 3, 4, 5, 40):
        x = torch.randn(rows, k)
        want = ops.linear(x, numbers.float()) * scale
        assert torch.equal(ops.linear(x, panels, weight_scale=scale), want), rows
        assert torch.equal(ops.linear(x, numbers, weight_scale=scale), want), rows


@pytest.mark.parametrize("isa", ["avx512_bf16", "amx_bf16"])
@pytest.mark.parametrize("k", [1, 31, 33, 511, 512, 513, 1100])
def test_bfloat16_products_are_exact_and_padding_is_zero(k, isa, use_isa):
    """Sums of small whole numbers have no rounding error, whatever lies beside the rows."""
    use_isa(isa)
    for rows, outputs in ((1, 1), (17, 33), (47, 16)):
        x = torch.randint(-3, 4, (rows + 2, k)).bfloat16()
        weight = torch.randint(-3, 4, (outputs, k)).bfloat16()
        x[0], x[-1] = float("nan"), float("inf")
        inner = x[1:-1]
        want = (inner.double() @ weight.double().T).bfloat16()
        assert torch.equal(ops.linear(inner, weight), want), rows


def test_weights_are_rounded_to_the_nearest_of_255_numbers():
    weight = torch.randn(50, 33) * torch.logspace(-6, 6, 50)[:, None]
    weight[7] = 0
    panels, scale = ops.quantize_weight(weight)
    numbers = ops.unpack_weight(panels, 50)
    assert panels.dtype == torch.int8
    assert panels.shape == (4, 33, 16)
    assert scale.dtype == torch.float32
    assert scale[7] == 0
    assert not numbers[7].any()
    assert not ops.unpack_weight(panels)[50:].any()
    others = numbers[torch.arange(50) != 7]
    assert (others.abs().amax(1) == 127).all()
    error = (numbers.double() * scale.double()[:, None] - weight.double()).abs()
    assert (error <= scale.double()[:, None] * 0.50001).all()
    halves = torch.tensor([[254.0, 1.0, 3.0, 5.0, -1.0, -3.0]])  # of a scale of 2: ties
    assert ops.unpack_weight(ops.quantize_weight(halves)[0], 1).tolist() == [[127, 0, 2, 2, 0, -2]]


def test_e4m3_keeps_4_significant_bits_under_one_scale_a_channel():
    weight = torch.randn(50, 33) * torch.logspace(-6, 6, 50)[:, None]
    weight[7] = 0
    packed, scale = ops.quantize_weight(weight, torch.float8_e4m3fn)
    assert (packed.dtype, packed.shape) == (torch.float8_e4m3fn, (4, 33, 16))
    numbers = ops.unpack_weight(packed, 50).double()
    assert numbers.abs().amax(1).tolist() == [0.0 if row == 7 else 448.0 for row in range(50)]
    scale, exact = scale.double()[:, None], weight.double()
    # Half a unit of the last of 4 bits, or of the subnormal numbers' 2^-9.
    allowed = torch.maximum(exact.abs() / 16, scale * 2**-10) * 1.00001
    assert ((numbers * scale - exact).abs() <= allowed).all()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_layers_of_quantised_weights_fuse(dtype):
    parts = [Linear(20, width) for width in (16, 5)]
    for part in parts:
        part.weight, part.bias = (
            torch.nn.Parameter(torch.randn(size), requires_grad=False)
            for size in ((part.out_features, 20), (part.out_features,))
        )
        part.quantize(dtype)
        part.pack()
    x = torch.randn(3, 20)
    want = [part(x) for part in parts]
    assert all(torch.equal(a, b) for a, b in zip(Fused(*parts)(x), want, strict=True))


def test_rows_are_rounded_under_scales_of_their_own():
    """The numbers as spelled out; beside a prologue those of its result."""
    weight, scale = ops.quantize_weight(torch.randn(30, 24), torch.float8_e4m3fn)
    x = torch.randn(2, 5, 24) * torch.logspace(-30, 30, 10).view(2, 5, 1)
    x[0, 3] = 0

    def product(x):
        scales = x.abs().amax(-1, keepdim=True) / 448
        numbers = (x / scales).nan_to_num(0).clamp(-448, 448).to(torch.float8_e4m3fn)
        return ops.linear(numbers.float() * scales, weight, weight_scale=scale)

    fp8 = {"weight_scale": scale, "quantize_x": True}
    assert torch.equal(ops.linear(x, weight, **fp8), product(x))
    around = torch.randn(2, 2, 24)
    norm = dict(zip(("scale", "shift"), around, strict=True))
    want = product(x * around[0][:, None] + around[1][:, None])
    assert torch.equal(ops.linear(x, weight, **norm, **fp8), want)
    ties = torch.tensor([448.0, 17.0, 19.0, -21.0, 2**-10, 3 * 2**-10, 2**-6 + 2**-10])
    numbers, unit = quantize_rows(ties, torch.float8_e4m3fn)
    assert unit == 1
    assert numbers.tolist() == [448.0, 16.0, 20.0, -20.0, 0.0, 2**-8, 2**-6]


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_odd_rows_to_be_rounded_become_nan_and_leave_the_others_alone(backend):
    weight, scale = ops.quantize_weight(torch.randn(6, 9), torch.float8_e4m3fn)
    x = torch.randn(4, 9)
    odd = x.clone()
    odd[0, 3], odd[2, 5] = float("nan"), -float("inf")
    with ops.force(backend):
        want, got = (ops.linear(t, weight, weight_scale=scale, quantize_x=True) for t in (x, odd))
    assert got[[0, 2]].isnan().all()
    assert torch.equal(got[[1, 3]], want[[1, 3]])


def test_other_dtypes_of_8_bits_are_refused():
    with pytest.raises(RequestError, match=r"dtype: expected torch\.int8 or"):
        ops.quantize_weight(torch.ones(2, 2), torch.float8_e5m2)


@pytest.mark.parametrize("tiny", [1e-45, 1e-40, 1e-38])
def test_subnormal_weights_become_finite_numbers(tiny):
    panels, scale = ops.quantize_weight(torch.tensor([[tiny, -tiny, 0.0]]))
    got = ops.linear(torch.eye(3), panels, weight_scale=scale)
    assert (got - torch.tensor([[tiny], [-tiny], [0.0]])).abs().max() <= tiny


@pytest.mark.parametrize(
    "weight",
    [
        torch.ones(3),
        torch.ones(3, 3, dtype=torch.int32),
        torch.tensor([[1.0, float("nan")]]),
        torch.tensor([[1.0, float("inf")]]),
    ],
)
def test_what_cannot_be_quantized_is_refused(weight):
    with pytest.raises(RequestError, match="quantize_weight: weight: expected"):
        ops.quantize_weight(weight)


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
        ({"weight": torch.ones(8, 4).char()}, "weight_scale: expected scales of int8 weights"),
        ({"weight_scale": torch.ones(8)}, "weight_scale: expected scales of int8 weights"),
        (
            {"weight": torch.ones(8, 4).char(), "weight_scale": torch.ones(7)},
            r"weight_scale: expected shape \[8\], got \[7\]",
        ),
        (
            {"weight": torch.ones(1, 4, 16).char(), "weight_scale": torch.ones(17)},
            "weight: expected the panels of 17 features, got 1 panels",
        ),
        (
            {"weight": torch.ones(8, 4).char(), "weight_scale": torch.ones(8).int()},
            "weight_scale: expected a floating-point dtype",
        ),
        ({"weight": torch.ones(8, 4).int()}, "weight: expected a floating-point dtype"),
        ({"out_features": 7}, "out_features: expected 8, as bias or weight has it, got 7"),
        (
            {"weight": torch.ones(1, 4, 16), "out_features": 17},
            "weight: expected the panels of 17 features, got 1 panels",
        ),
        (
            {"weight": torch.ones(7, 4), "activation": "geglu"},
            "weight: expected an even number of output features for geglu, got 7",
        ),
        (
            {"weight": torch.ones(7, 4), "activation": "geglu_tanh"},
            "weight: expected an even number of output features for geglu_tanh, got 7",
        ),
        (
            {"activation": "geglu", "addend": torch.ones(3, 4)},
            r"addend: expected shape \[3, 8\], got \[3, 4\]",
        ),
        ({"addend": torch.ones(3, 8).double()}, "addend: expected x's dtype torch.float32"),
        ({"gate": torch.ones(3, 4)}, r"gate: expected shape \[3, 8\], got \[3, 4\]"),
        ({"gate": torch.ones(3, 8).int()}, "gate: expected a floating-point dtype"),
        (
            {"x": torch.ones(4), "gate": torch.ones(1, 8)},
            "x: expected at least two dimensions beside gate",
        ),
        ({"scale": torch.ones(3, 4)}, "scale: expected both scale and shift or neither, got one"),
        (
            {"scale": torch.ones(3, 4), "shift": torch.ones(3, 5)},
            r"shift: expected shape \[3, 4\], got \[3, 5\]",
        ),
        ({"x": torch.tensor(1.0)}, "x: expected at least one dimension"),
        ({"quantize_x": True}, "quantize_x: expected weights of torch.int8 or torch.float8_e4m3fn"),
        (
            {
                "weight": torch.ones(8, 4).to(torch.float8_e4m3fn),
                "weight_scale": torch.ones(8),
                "quantize_x": True,
                "silu": True,
            },
            "silu: expected False beside quantize_x and e4m3 weights, got True",
        ),
    ],
)
def test_refusals(change, complaint):
    arguments = {"x": torch.ones(3, 4), "weight": torch.ones(8, 4)} | change
    with pytest.raises(RequestError, match=f"linear: {complaint}"):
        ops.linear(**arguments)


@pytest.mark.parametrize("weights", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize("quantize_x", [False, True])
def test_gradients_through_8_bits_are_not_rounded_to_them(weights, quantize_x):
    """That of a rounded input is the input's: rounded itself, small gradients would be zero."""
    panels, scale = ops.quantize_weight(torch.randn(14, 20), weights)
    x, above = torch.randn(5, 20, requires_grad=True), 1e-4 * torch.randn(5, 14)
    y = ops.linear(x, panels, weight_scale=scale, quantize_x=quantize_x)
    (got,) = torch.autograd.grad((y * above).sum(), x)
    numbers = ops.unpack_weight(panels, 14).float() * scale[:, None]
    torch.testing.assert_close(got, above @ numbers)


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
        "linear",
        ops.OPS["linear"].table,
        "cuda",
        x.dtype,
        False,
        lambda row: row.serves is None or row.serves(*arguments, **more),
    )
    assert row.name == name


@pytest.mark.parametrize(
    ("weight", "x", "more", "name"),
    [
        (torch.int8, torch.float16, {}, "triton"),
        (torch.float8_e4m3fn, torch.bfloat16, {}, "triton"),
        (torch.int8, torch.float32, {}, "torch"),
        (torch.float8_e4m3fn, torch.bfloat16, {"scale": True, "shift": True}, "torch"),
        (torch.float8_e4m3fn, torch.float32, {"quantize_x": True, "scale": True}, "triton"),
    ],
)
def test_a_gpus_backend_for_many_rows_of_8_bit_weights(weight, x, more, name):
    arguments = (torch.empty(2, 400, 64, device="meta", dtype=x), torch.empty(8, 64, dtype=weight))
    row = choose(
        "linear",
        ops.OPS["linear"].table,
        "cuda",
        x,
        False,
        lambda row: row.serves is None or row.serves(*arguments, **more),
    )
    assert row.name == name
