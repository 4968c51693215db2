"""linear in int8: whole numbers of rows times whole numbers of weights, summed exactly."""

import pytest
import torch
from instruction_sets import ISAS, PRODUCTS

from pyengine import ops
from pyengine.errors import RequestError
from pyengine.ops._core import core
from pyengine.ops._pack import pack_quads, quantize_inputs, unpack_quads

DEPTHS = (1, 3, 7, 63, 64, 65, 130, 320, 1280, 1300, 2600)


def layer(features, channels):
    matrix = torch.randn(features, channels) / channels**0.5
    weight, scale = ops.quantize_weight(matrix, products=True)
    return matrix, {"weight": weight, "weight_scale": scale, "quantize_x": True}


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("k", DEPTHS)
def test_the_bits_are_the_specifications(product, k, use_product):
    """Of every kind of instruction, where neither prologue nor activation rounds in its own way."""
    use_product(product)
    for rows, features in ((1, 1), (2, 70), (5, 16), (16, 33), (17, 32), (33, 48), (290, 40)):
        _, given = layer(features, k)
        x, bias = 3 * torch.randn(rows, k), torch.randn(features)
        residual = torch.randn(rows, features)
        want = ops.reference.linear(x, bias=bias, residual=residual, **given)
        got = ops.linear(x, bias=bias, residual=residual, **given)
        assert torch.equal(got, want), (rows, features)


@pytest.mark.parametrize("product", PRODUCTS)
def test_extreme_numbers_do_not_saturate(product, use_product):
    """Sums of 127 * 127 over as many channels as there may be, just below 2^31."""
    use_product(product)
    k = 1 << 17
    x, weight = torch.ones(3, k), torch.ones(18, k, dtype=torch.int8) * 127
    x[1], weight[1::2] = -1, -127
    x[2, ::2] = -1
    got = ops.linear(x, weight, weight_scale=torch.ones(18), quantize_x=True)
    want = torch.tensor([[k * 127.0 * 127], [-k * 127.0 * 127], [0.0]]) / 127
    want = want * torch.tensor([1.0, -1.0]).repeat(9)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_instruction_set_rounds_to_the_same_numbers(isa, dtype, use_isa):
    use_isa(isa)
    _, given = layer(70, 100)
    x, x2 = torch.randn(2, 9, 60).to(dtype), 5 * torch.randn(2, 9, 40).to(dtype)
    got = ops.linear(x, x2=x2, **given)
    assert torch.equal(got, ops.reference.linear(x, x2=x2, **given))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", ["none", "silu", "gelu", "geglu", "geglu_tanh"])
@pytest.mark.parametrize("features", [64, 38])
def test_with_all_that_surrounds_it(isa, activation, features, use_isa):
    """A last bit of the prologue may turn a tie, one number of the row by one: theory's bound."""
    use_isa(isa)
    _, given = layer(features, 100)
    width = features // 2 if "geglu" in activation else features
    around = {
        "x": torch.randn(3, 7, 60),
        "x2": torch.randn(3, 7, 40),
        "bias": torch.randn(features),
        "scale": torch.randn(3, 100),
        "shift": torch.randn(3, 100),
        "silu": True,
        "addend": torch.randn(3, 7, features),
        "activation": activation,
        "gate": torch.randn(3, width),
        "residual": torch.randn(3, 7, width),
    }
    got = ops.linear(**around, **given)
    want = ops.reference.linear(**around, **given)
    step = 4.0 / 127  # of a row whose largest magnitude is 4, times weights below 0.5, GELU'
    torch.testing.assert_close(got, want, rtol=1e-4, atol=step * 0.5 * 6)
    assert (got - want).abs().mean() < 1e-3


@pytest.mark.parametrize("k", [64, 320, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_error_is_that_of_rounding(k, dtype):
    """Each number is within half a step of what it stands for, in x and in the weight."""
    matrix, given = layer(50, k)
    x = (torch.randn(40, k) * torch.logspace(-6, 6, 40)[:, None]).to(dtype)
    got = ops.linear(x, **given).double()
    exact = x.double() @ matrix.double().T
    x_step = x.double().abs().amax(1, keepdim=True) / 127
    w_step = matrix.double().abs().amax(1) / 127
    size = x.double().abs() + x_step / 2
    bound = 0.5 * x_step * matrix.double().abs().sum(1) + 0.5 * size.sum(1, keepdim=True) * w_step
    bound = bound * (1 + 1e-5) + exact.abs() * torch.finfo(dtype).eps
    assert ((got - exact).abs() <= bound).all()
    assert (got - exact).norm() / exact.norm() < 2e-2


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("rows", [1, 2, 3, 15, 16, 17, 31, 33, 250, 600])
def test_a_rows_bits_do_not_depend_on_its_neighbours(product, rows, use_product, use_threads):
    use_product(product)
    use_threads(1)
    _, given = layer(300, 200)
    x = torch.randn(600, 200)
    together = ops.linear(x, activation="gelu", **given)
    for threads in (1, 2, 5, 16):
        use_threads(threads)
        for first in {0, (600 - rows) // 2, 600 - rows}:
            part = ops.linear(x[first : first + rows], activation="gelu", **given)
            assert torch.equal(part, together[first : first + rows]), (threads, first)


def test_rows_in_several_chunks_are_as_in_one():
    _, given = layer(20, 1300)
    x = torch.randn(4000, 1300)
    together = ops.linear(x, **given)
    for first in (0, 1601, 3990):
        assert torch.equal(ops.linear(x[first : first + 10], **given), together[first : first + 10])


def test_weights_plain_in_panels_and_in_quads_give_the_same_bits():
    for activation, features in (("none", 38), ("geglu", 38), ("geglu", 64)):
        _, given = layer(features, 70)
        x, quads = torch.randn(9, 70), given.pop("weight")
        numbers = unpack_quads(quads, features, 70)
        assert torch.equal(pack_quads(numbers), quads)
        want = ops.linear(x, quads, activation=activation, **given)
        for weight in (numbers, ops.pack_weight(numbers)):
            assert torch.equal(ops.linear(x, weight, activation=activation, **given), want)


@pytest.mark.parametrize("backend", ["cpu", "torch", "reference"])
def test_odd_rows_become_nan_and_leave_the_others_alone(backend):
    _, given = layer(6, 9)
    x = torch.randn(5, 9)
    odd = x.clone()
    odd[0, 3], odd[2, 5], odd[3] = float("nan"), -float("inf"), 0
    with ops.force(backend):
        want, got = (ops.linear(t, **given) for t in (x, odd))
    assert got[[0, 2]].isnan().all()
    assert (got[3] == 0).all()
    assert torch.equal(got[[1, 4]], want[[1, 4]])


def test_numbers_as_spelled_out():
    x = torch.tensor([[127.0, 0.5, 1.5, -2.5, 126.5], [1e-45, 0, 0, 0, 0], [3e38, -3e38, 0, 1, 2]])
    numbers, scale = quantize_inputs(x)
    assert numbers.tolist() == [[127, 0, 2, -2, 126], [0] * 5, [127, -127, 0, 0, 0]]
    assert scale.tolist() == (torch.tensor([127.0, 2.0**-100, 3e38]) / 127).tolist()


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 4), (2, 0)])
def test_empty_inputs(shape):
    weight, scale = torch.ones(6, shape[-1], dtype=torch.int8), torch.ones(6)
    y = ops.linear(torch.ones(shape), weight, weight_scale=scale, quantize_x=True)
    assert y.shape == (*shape[:-1], 6)
    assert (y == 0).all()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"quantize_x": False}, "quantize_x: expected True beside weights that pack_quads made"),
        ({"x": torch.ones(2, 65)}, r"weight: expected shape \[\*, 32, 16, 4\], got \[1, 16, 16, 4"),
        ({"weight_scale": torch.ones(17)}, r"weight_scale: expected shape \[6\], got \[17\]"),
        ({"weight": torch.ones(6, 9)}, "quantize_x: expected weights of torch.int8 or torch.float"),
        ({"x": torch.ones(1, 1 << 18)}, "x: expected at most 131072 channels beside quantize_x"),
    ],
)
def test_refusals(change, complaint):
    _, given = layer(6, 9)
    with pytest.raises(RequestError, match=f"linear: {complaint}"):
        ops.linear(**{"x": torch.ones(2, 9), **given, **change})


def test_products_that_cannot_be_had_are_refused():
    with pytest.raises(ValueError, match='no int8 product "mmx" in this build'):
        core().set_int8_product("mmx")
