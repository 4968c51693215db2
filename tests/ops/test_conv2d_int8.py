"""conv2d in int8: a scale for each pixel that it reads, sums of each tap exact."""

import pytest
import torch
import torch.nn.functional as F
from instruction_sets import ISAS, PRODUCTS

from pyengine import ops
from pyengine.errors import RequestError
from pyengine.ops._pack import unpack_filters

#: (H, W, C, C2, Cout, kernel, stride, padding, upsample): tiles that fill rows and do not, steps of
#: channels that are whole and not, one panel and several, bands of strips.
SHAPES = {
    "whole-tiles": (5, 16, 64, 0, 32, 3, 1, (1, 1, 1, 1), False),
    "two-tiles-a-row": (3, 32, 48, 0, 70, 3, 1, (1, 1, 1, 1), False),
    "narrow": (4, 4, 192, 0, 40, 3, 1, (1, 1, 1, 1), False),
    "odd": (7, 9, 33, 0, 17, 3, 1, (1, 1, 1, 1), False),
    "two-inputs": (8, 8, 40, 30, 48, 3, 1, (1, 1, 1, 1), False),
    "stride-2": (8, 32, 70, 0, 20, 3, 2, (1, 1, 1, 1), False),
    "stride-2-odd": (9, 11, 20, 0, 33, 3, 2, (1, 1, 1, 1), False),
    "stride-2-below": (8, 8, 64, 0, 33, 3, 2, (0, 1, 0, 1), False),
    "enlarged": (3, 8, 96, 0, 50, 3, 1, (1, 1, 1, 1), True),
    "enlarged-odd": (3, 5, 10, 0, 16, 3, 1, (1, 1, 1, 1), True),
    "one-tap": (4, 6, 100, 0, 30, 1, 1, (0, 0, 0, 0), False),
    "five-taps": (6, 6, 10, 0, 30, 5, 1, (2, 2, 2, 2), False),
    "one-pixel": (1, 1, 3, 0, 1, 3, 1, (1, 1, 1, 1), False),
    "deep": (8, 8, 1400, 0, 20, 3, 1, (1, 1, 1, 1), False),
    "bands": (80, 64, 960, 0, 8, 3, 1, (1, 1, 1, 1), False),
}


def given(name, pictures=2, dtype=torch.float32):
    height, width, c, c2, out, kernel, stride, padding, upsample = SHAPES[name]
    filters = torch.randn(out, c + c2, kernel, kernel) / (kernel * (c + c2) ** 0.5)
    weight, scale = ops.quantize_filters(filters)
    arguments = {
        "x": (3 * torch.randn(pictures, height, width, c)).to(dtype),
        "weight": weight,
        "weight_scale": scale,
        "bias": torch.randn(out),
        "stride": stride,
        "padding": padding,
        "upsample": upsample,
        "x2": torch.randn(pictures, height, width, c2).to(dtype) if c2 else None,
        "channel_add": torch.randn(pictures, out).to(dtype),
    }
    return filters, arguments


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("name", SHAPES)
def test_the_bits_are_the_specifications(product, name, use_product):
    use_product(product)
    _, arguments = given(name, 1 if name == "bands" else 3)
    if name == "bands" and product == "int8_portable":
        pytest.skip("tens of seconds")
    want = ops.reference.conv2d(**arguments)
    residual = torch.randn(want.shape)
    want = ops.reference.conv2d(**arguments, residual=residual)
    assert torch.equal(ops.conv2d(**arguments, residual=residual), want)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["whole-tiles", "two-inputs", "stride-2-odd", "enlarged"])
def test_every_instruction_set_rounds_to_the_same_numbers(isa, dtype, name, use_isa):
    use_isa(isa)
    _, arguments = given(name, dtype=dtype)
    assert torch.equal(ops.conv2d(**arguments), ops.reference.conv2d(**arguments))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("activation", ["none", "silu", "gelu", "relu"])
def test_behind_a_prologue(isa, activation, use_isa):
    """A last bit of the prologue may turn a tie, a number of one pixel by one."""
    use_isa(isa)
    torch.manual_seed(11)
    _, arguments = given("two-inputs")
    arguments |= {
        "scale": torch.randn(2, 70),
        "shift": torch.randn(2, 70),
        "input_activation": activation,
    }
    got, want = ops.conv2d(**arguments), ops.reference.conv2d(**arguments)
    assert (got - want).abs().max() < 0.05
    assert (got - want).abs().mean() < 1e-4


@pytest.mark.parametrize("name", SHAPES)
def test_the_error_is_that_of_rounding(name):
    """Each number is within half a step of what it stands for, in the pixels and in the filters."""
    filters, arguments = given(name, 1)
    x = arguments["x"]
    x = (x if arguments["x2"] is None else torch.cat([x, arguments["x2"]], -1)).double()
    numbers = unpack_filters(arguments["weight"], len(filters), x.shape[-1]).double()
    stood_for = numbers * arguments["weight_scale"].double()[:, None, None, None]
    w_step = arguments["weight_scale"].double() / 2
    assert (
        (stood_for - filters.permute(0, 2, 3, 1)).abs().amax((1, 2, 3)) <= 1.00001 * w_step
    ).all()
    steps = (x.abs().amax(-1, keepdim=True) / 127).expand(x.shape)

    def convolved(values, weight):
        values = values.permute(0, 3, 1, 2)
        if arguments["upsample"]:
            values = F.interpolate(values, scale_factor=2.0, mode="nearest")
        top, bottom, left, right = arguments["padding"]
        values = F.pad(values, (left, right, top, bottom))
        return F.conv2d(values, weight, stride=arguments["stride"]).permute(0, 2, 3, 1)

    exact = convolved(x, filters.double())
    add = arguments["bias"] + arguments["channel_add"][:, None, None]
    ones = w_step[:, None, None, None].expand_as(filters)
    bound = convolved(steps / 2, filters.double().abs()) + convolved(x.abs() + steps / 2, ones)
    error = (ops.conv2d(**arguments).double() - (exact + add)).abs()
    assert (error <= bound * (1 + 1e-5) + 1e-5 * (exact.abs() + 1)).all()
    # Of the sums' size as their terms have it: one sum alone may be next to nothing.
    size = convolved(x.square(), filters.double().square()).sqrt()
    assert error.norm() / size.norm() < 2e-2


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize("name", ["two-tiles-a-row", "narrow", "odd", "stride-2-odd", "enlarged"])
def test_a_picture_has_the_same_bits_alone_and_on_any_threads(
    product, name, use_product, use_threads
):
    use_product(product)
    use_threads(1)
    _, arguments = given(name, 6)
    together = ops.conv2d(**arguments)
    for threads in (1, 2, 3, 16):
        use_threads(threads)
        for some in (slice(0, 1), slice(5, 6), slice(1, 4), slice(0, 6)):
            part = {
                k: v[some] if k in ("x", "x2", "channel_add") and v is not None else v
                for k, v in arguments.items()
            }
            assert torch.equal(ops.conv2d(**part), together[some]), (threads, some)


def test_odd_pixels_spoil_what_sees_them_alone():
    _, arguments = given("odd", 1)
    want = ops.conv2d(**arguments)
    arguments["x"][0, 3, 4, 7] = float("nan")
    arguments["x"][0, 0, 0] = 0
    zeroed = ops.reference.conv2d(**arguments)
    got = ops.conv2d(**arguments)
    assert got[0, 2:5, 3:6].isnan().all()
    assert got[0, 2:5, 3:6].numel() == got.isnan().sum()
    assert torch.equal(got.nan_to_num(7), zeroed.nan_to_num(7))
    assert torch.equal(got[0, 5:], want[0, 5:])


def test_gradients_are_not_rounded_to_8_bits():
    """As linear's: that of a rounded input is the input's."""
    _, arguments = given("stride-2-odd", 1)
    x = arguments["x"].requires_grad_()
    y = ops.conv2d(**arguments)
    above = 1e-4 * torch.randn(y.shape)
    (got,) = torch.autograd.grad((y * above).sum(), x)
    filters = unpack_filters(arguments["weight"], 33, 20).float()
    filters = (filters * arguments["weight_scale"][:, None, None, None]).permute(0, 3, 1, 2)
    plain = x.detach().permute(0, 3, 1, 2).requires_grad_()
    wanted = F.conv2d(plain, filters, stride=2, padding=1).permute(0, 2, 3, 1)
    (want,) = torch.autograd.grad((wanted * above).sum(), plain)
    torch.testing.assert_close(got, want.permute(0, 2, 3, 1))


def test_filters_unpack_to_what_was_packed():
    filters = torch.randn(20, 70, 3, 3) * torch.logspace(-6, 6, 20)[:, None, None, None]
    filters[7] = 0
    packed, scale = ops.quantize_filters(filters)
    assert packed.shape == (2, 3, 3, 32, 16, 4)
    assert packed.dtype == torch.int8
    assert packed.is_contiguous()
    numbers = unpack_filters(packed, 20, 70)
    assert (
        numbers.abs().amax((1, 2, 3)) == torch.tensor([0 if i == 7 else 127 for i in range(20)])
    ).all()
    plain, scales = ops.quantize_weight(filters.permute(0, 2, 3, 1).flatten(1))
    assert torch.equal(scale, scales)
    assert torch.equal(numbers.flatten(1), ops.unpack_weight(plain, 20))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"x": torch.ones(3, 7, 9, 65)}, r"weight: expected shape \[\*, \*, \*, 32, 16, 4\], got"),
        ({"weight_scale": torch.ones(16)}, "weight_scale: expected a scale for each of the"),
        ({"weight": torch.ones(17, 3, 3, 33)}, "weight: expected quantize_filters' numbers beside"),
        ({"slopes": torch.ones(17)}, "slopes: expected None beside weight_scale"),
        ({"transposed": True}, "transposed: expected False beside weight_scale"),
        ({"bias": torch.ones(18)}, r"bias: expected shape \[17\], got \[18\]"),
        ({"weight_scale": None}, "weight: expected"),
    ],
)  # fmt: skip
def test_refusals(change, complaint):
    _, arguments = given("odd", 3)
    with pytest.raises(RequestError, match=f"conv2d: {complaint}"):
        ops.conv2d(**{**arguments, **change})


@pytest.mark.parametrize("filters", [torch.ones(3, 3), torch.full((2, 2, 3, 3), float("nan"))])
def test_what_cannot_be_quantized_is_refused(filters):
    with pytest.raises(RequestError, match="quantize_filters: weight: expected"):
        ops.quantize_filters(filters)
