"""What conv2d does beyond the promises."""

import pytest
import torch

from pyengine import ops
from pyengine.errors import RequestError
from pyengine.ops import reference
from pyengine.ops._core import core
from pyengine.ops.conv2d import _convolved, _cpu, algorithm_of


def test_inputs_are_left_as_they_were():
    """The epilogue adds in place, to a tensor of its own."""
    x, weight = torch.randn(2, 5, 5, 4), torch.randn(4, 1, 1, 4)
    scale, shift, channel_add = torch.randn(3, 2, 4)
    residual = torch.randn(2, 5, 5, 4)
    tensors = (x, weight, scale, shift, channel_add, residual)
    before = [t.clone() for t in tensors]
    ops.conv2d(
        x, weight, scale=scale, shift=shift, silu=True, channel_add=channel_add, residual=residual
    )
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_the_prologue_is_our_kernels_and_the_group_norms():
    x, weight, bias = torch.randn(2, 6, 6, 16), torch.randn(16), torch.randn(16)
    kernel = torch.randn(8, 3, 3, 16) / 12
    scale, shift = ops.group_norm_scale_shift(x, weight, bias, 4)
    fused = ops.conv2d(x, kernel, padding=(1, 1, 1, 1), scale=scale, shift=shift, silu=True)
    apart = ops.conv2d(ops.group_norm_silu(x, weight, bias, 4), kernel, padding=(1, 1, 1, 1))
    torch.testing.assert_close(fused, apart)


FORMATS = (torch.float32, torch.bfloat16, torch.float16)
PADDED = (1, 1, 1, 1)
#: Fields of the core's struct, of 3x3 with zeros around.
SIZES = {
    "pictures": 1, "height": 4, "width": 4, "channels": 4, "channels2": 0, "height_out": 4,
    "width_out": 4, "channels_out": 4, "kernel_height": 3, "kernel_width": 3, "stride": 1,
    "top": 1, "left": 1, "activation": 0, "dtype": 0, "weight_dtype": 0,
}  # fmt: skip


@pytest.mark.parametrize("weight_dtype", FORMATS)
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(
    "more",
    [{}, {"upsample": True}, {"stride": 2}, {"out_channels": 3}, {"c": 40, "out_channels": 40}],
    ids=["direct", "upsample", "stride", "few-outputs", "winograd"],
)
def test_weights_of_any_dtype_packed_or_not(dtype, weight_dtype, more, use_isa):
    """The same bits as with the weights widened beforehand, on every instruction set."""
    more = {"c": 20, "out_channels": 21} | more
    channels, count = more.pop("c"), more["out_channels"]
    x = torch.randn(2, 7, 9, channels).to(dtype)
    weight = (torch.randn(count, 3, 3, channels) / 20).to(weight_dtype)
    for isa, missing in ops.isas().items():
        if missing:
            continue
        use_isa(isa)
        wide = ops.conv2d(x, weight.float(), padding=PADDED, **more)
        for given in (weight, ops.pack_weight(weight)):
            assert torch.equal(ops.conv2d(x, given, padding=PADDED, **more), wide)


def test_a_bias_tells_a_packed_weights_channels():
    x, weight = torch.randn(1, 3, 3, 4), ops.pack_weight(torch.randn(20, 1, 1, 4)).clone()
    assert ops.conv2d(x, weight, torch.randn(20)).shape[3] == 20
    assert ops.conv2d(x, weight, out_channels=20).shape[3] == 20
    with ops.force("torch"):
        assert ops.conv2d(x, weight, out_channels=20).shape[3] == 20


@pytest.mark.parametrize("algorithm", ["direct", "winograd4", "winograd2"])
def test_every_algorithm_can_be_asked_for(algorithm, use_isa):
    x, weight = torch.randn(2, 10, 9, 8), torch.randn(20, 3, 3, 8) / 9
    wanted = reference.conv2d(x.double(), weight.double(), padding=PADDED)
    for isa, missing in ops.isas().items():
        if not missing:
            use_isa(isa)
            got = _cpu(x, weight, padding=PADDED, algorithm=algorithm)
            torch.testing.assert_close(got.double(), wanted, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("stride", "upsample"), [(1, False), (2, False), (1, True)])
def test_bfloat16_tiles_multiply_exactly(stride, upsample, use_isa):
    """Sums of small whole numbers have no rounding error; zeros around are zero."""
    use_isa("amx_bf16")
    for height, width, channels, outputs in ((5, 16, 64, 40), (3, 7, 32, 16), (1, 1, 96, 33)):
        x = torch.randint(-2, 3, (2, height, width, channels)).bfloat16()
        weight = torch.randint(-2, 3, (outputs, 3, 3, channels)).bfloat16()
        more = {"stride": stride, "upsample": upsample, "padding": PADDED}
        assert algorithm_of(x, weight, **more) == "direct_bf16"
        want = reference.conv2d(x.double(), weight.double(), **more)
        assert torch.equal(ops.conv2d(x, weight, **more), want.bfloat16())


def test_bfloat16_tiles_are_for_whole_steps_of_channels(use_isa):
    x, weight = torch.randn(1, 8, 8, 32).bfloat16(), torch.randn(16, 3, 3, 32).bfloat16()
    for isa in ("avx512", "avx512_bf16"):
        use_isa(isa)
        assert algorithm_of(x, weight, padding=PADDED) == "direct"
        with pytest.raises(ValueError, match="direct_bf16 is for"):
            _cpu(x, weight, padding=PADDED, algorithm="direct_bf16")
    use_isa("amx_bf16")
    for a, b in ((x.float(), weight), (x, weight.float()), (x, weight[:15]),
                 (x[..., :24], weight[..., :24])):  # fmt: skip
        assert algorithm_of(a, b, padding=PADDED) != "direct_bf16"
        with pytest.raises(ValueError, match="direct_bf16 is for"):
            _cpu(a, b, padding=PADDED, algorithm="direct_bf16")


def test_bands_of_a_large_picture_are_the_whole(use_isa):
    """A strip holds 8 MB: this picture is computed in two bands, its halves in one each."""
    use_isa("amx_bf16")
    x, weight = torch.randn(1, 80, 250, 256).bfloat16(), torch.randn(16, 3, 3, 256).bfloat16() / 48
    whole = ops.conv2d(x, weight, padding=PADDED)
    upper = ops.conv2d(x[:, :31], weight, padding=(1, 0, 1, 1))
    lower = ops.conv2d(x[:, 29:], weight, padding=(0, 1, 1, 1))
    assert torch.equal(whole, torch.cat([upper, lower], dim=1))


def test_an_algorithm_that_cannot_be_is_refused():
    x, weight = torch.randn(1, 4, 4, 8), torch.randn(8, 3, 3, 8)
    with pytest.raises(ValueError, match="3x3 with stride 1"):
        _cpu(x, weight, padding=PADDED, stride=2, algorithm="winograd4")
    with pytest.raises(ValueError, match="no algorithm fft"):
        _cpu(x, weight, padding=PADDED, algorithm="fft")


def test_which_algorithm_does_not_depend_on_the_batch():
    weight = torch.empty(320, 3, 3, 320)
    for pictures in (1, 2, 9):
        x = torch.empty(pictures, 64, 64, 320)
        assert algorithm_of(x, weight, padding=PADDED) == "winograd4"
        assert algorithm_of(x, weight, padding=PADDED, stride=2) == "direct"
        assert algorithm_of(x[:, :4, :4], weight, padding=PADDED) == "winograd2"


def test_the_residual_may_be_where_the_result_goes():
    """An arena may give the result the residual's memory: read before it is written."""
    x, weight = torch.randn(2, 9, 9, 12), ops.pack_weight(torch.randn(20, 3, 3, 12) / 10)
    residual = torch.randn(2, 9, 9, 20)
    wanted = ops.conv2d(x, weight, padding=PADDED, residual=residual, out_channels=20)
    sizes = dict(SIZES, pictures=2, height=9, width=9, channels=12)
    sizes |= {"height_out": 9, "width_out": 9, "channels_out": 20}
    args = core().Conv2dArgs(
        x=x.data_ptr(),
        weight=weight.data_ptr(),
        residual=residual.data_ptr(),
        y=residual.data_ptr(),
        **sizes,
    )
    core().conv2d(args, 2, "direct")
    assert torch.equal(residual, wanted)


def test_zeros_around_are_zero_after_the_prologue():
    """And bad values outside of an output's window do not reach it, whatever lies beside it."""
    x, weight = torch.zeros(1, 6, 6, 3), torch.ones(2, 3, 3, 3)
    scale, shift = torch.ones(1, 3), torch.full((1, 3), 2.0)
    y = ops.conv2d(x, weight, padding=PADDED, scale=scale, shift=shift)
    assert y[0, 0, 0, 0] == 4 * 3 * 2
    assert y[0, 2, 2, 0] == 9 * 3 * 2
    x[0, 5, 5, 0] = float("nan")
    y = ops.conv2d(x, weight, padding=PADDED)
    assert y.isnan()[0, 4:, 4:].all()
    assert y.isnan().sum() == 2 * 2 * 2


def test_an_empty_batch():
    y = ops.conv2d(torch.empty(0, 5, 5, 4), torch.ones(8, 3, 3, 4), padding=PADDED)
    assert y.shape == (0, 5, 5, 8)


@pytest.mark.parametrize(
    "change",
    [{"pictures": 2**60}, {"height": 2**31}, {"stride": 0}, {"width": 0}, {"channels": -1}],
    ids=str,
)
def test_core_refuses_sizes_that_cannot_be(change):
    """Whatever Python let through: no read or write where it should not be."""
    a = torch.zeros(4096).data_ptr()
    args = core().Conv2dArgs(x=a, weight=a, y=a, **SIZES | change)
    with pytest.raises(ValueError, match="conv2d: size"):
        core().conv2d(args, 1)


def test_core_refuses_weights_of_the_other_kind():
    a = torch.zeros(4096).data_ptr()
    args = core().Conv2dArgs(x=a, weight=a, y=a, **SIZES | {"weight_dtype": 3})
    with pytest.raises(ValueError, match="conv2d: weights in int8"):
        core().conv2d(args, 1)
    args = core().Conv2dArgs(x=a, weight=a, y=a, **SIZES)
    with pytest.raises(ValueError, match="conv2d_int8: weights of another dtype"):
        core().conv2d_int8(args, a, 1)


def test_gradients_reach_the_weights():
    """By the specification: the table's row for gradients."""
    weight = torch.randn(4, 3, 3, 4, requires_grad=True)
    x = torch.randn(1, 5, 5, 4)
    with ops.kernels_used() as used:
        ops.conv2d(x, weight, silu=True).sum().backward()
    assert used.summary() == {"conv2d": "reference"}
    wanted = weight.grad.clone()
    weight.grad = None
    reference.conv2d(x, weight, silu=True).sum().backward()
    assert torch.equal(weight.grad, wanted)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"weight": torch.ones(8, 3, 3, 5)}, r"weight: expected shape \[\*, \*, \*, 4\]"),
        ({"weight": torch.ones(8, 9, 3, 4)}, "x: expected a padded picture no smaller than weight"),
        ({"weight": torch.ones(8, 0, 3, 4)}, "weight: expected a kernel of at least 1x1"),
        ({"weight": torch.ones(1, 3, 3, 4, 8)}, r"weight: expected shape \[\*, \*, \*, 4, 16\]"),
        ({"weight": torch.ones(8, 3, 3, 4).double()}, "weight: expected float32, bfloat16"),
        ({"out_channels": 7}, "out_channels: expected 8 to 8 channels, as weight has, got 7"),
        (
            {"weight": torch.ones(2, 3, 3, 4, 16), "out_channels": 16},
            "out_channels: expected 17 to 32 channels",
        ),
        ({"x": torch.ones(1, 5, 5, 0), "weight": torch.ones(8, 3, 3, 0)}, "x: expected at least"),
        ({"stride": 0}, "stride: expected at least 1, got 0"),
        ({"padding": (1, 1)}, "padding: expected 4 sizes"),
        ({"padding": 1}, "padding: expected 4 whole numbers, got 1"),
        ({"padding": (1, 1, -1, 1)}, "padding: expected 4 sizes"),
        (
            {"transposed": True},
            "transposed: expected a kernel of 4x4, stride 2 and padding 1, 1, 1",
        ),
        ({"slopes": torch.ones(4)}, r"slopes: expected shape \[8\], got \[4\]"),
        ({"input_activation": "tanh"}, "input_activation: expected one of none, silu, gelu, relu"),
        ({"input_activation": "gelu", "silu": True}, "input_activation: expected silu or none"),
        ({"scale": torch.ones(1, 4)}, "scale: expected both scale and shift or neither"),
        ({"bias": torch.ones(4)}, r"bias: expected shape \[8\], got \[4\]"),
        ({"channel_add": torch.ones(8)}, r"channel_add: expected shape \[1, 8\], got \[8\]"),
        ({"residual": torch.ones(1, 5, 5, 8)}, r"residual: expected shape \[1, 3, 3, 8\]"),
        ({"x2": torch.ones(1, 5, 4, 4)}, r"x2: expected shape \[1, 5, 5, \*\]"),
        ({"x": torch.ones(5, 5, 4)}, r"x: expected 4 dimensions \[N, H, W, C\], got \[5, 5, 4\]"),
    ],
)
def test_refusals(change, complaint):
    arguments = {"x": torch.ones(1, 5, 5, 4), "weight": torch.ones(8, 3, 3, 4)} | change
    with pytest.raises(RequestError, match=f"conv2d: {complaint}"):
        ops.conv2d(**arguments)


@pytest.mark.parametrize(("stride", "padding"), [(1, (1, 1)), (2, (0, 0))])
@pytest.mark.parametrize("biased", [False, True])
def test_torchs_convolution_with_flags_of_our_own(monkeypatch, stride, padding, biased):
    x, weight = torch.randn(2, 8, 9, 11), torch.randn(6, 8, 3, 3)
    bias = torch.randn(6) if biased else None
    expected = torch.nn.functional.conv2d(x, weight, bias, stride, padding)
    convolution, flags = torch.ops.aten._convolution, []

    def seen(*given):
        flags.append(given[-4:])
        return convolution(*given)

    monkeypatch.setattr(torch.ops.aten, "_convolution", seen)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    assert torch.equal(_convolved(x, weight, bias, stride, padding), expected)
    # benchmark, deterministic, cudnn, tf32
    assert flags == [(False, True, True, False)]
