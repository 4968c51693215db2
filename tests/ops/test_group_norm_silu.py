"""What group_norm_silu and group_norm_scale_shift do beyond the promises: statistics, refusals."""

import pytest
import torch

from pyengine import ops
from pyengine.errors import RequestError
from pyengine.ops import reference
from pyengine.ops.group_norm_silu import apply_scale_shift


def _inputs(*shape, c2=0):
    generator = torch.Generator().manual_seed(7)

    def random(*size):
        return torch.randn(size, generator=generator)

    x2 = random(*shape[:3], c2) if c2 else None
    return random(*shape), random(shape[3] + c2), random(shape[3] + c2), x2


@pytest.mark.parametrize("mean", [0.0, 1e2, 1e4, -1e5])
def test_variance_survives_a_mean_far_away(mean):
    """float32 leaves 1e5 + randn about 7 bits; what is left must not be lost on the way."""
    x, weight, bias, _ = _inputs(2, 33, 17, 24)
    x = x + mean
    got = ops.group_norm_silu(x, weight, bias, 4, silu=False)
    exact = reference.group_norm_silu(*(t.double() for t in (x, weight, bias)), 4, silu=False)
    assert (got - exact).abs().max() < 2e-5


def test_variance_survives_a_strip_whose_first_pixels_are_unlike_the_rest():
    """The centre is the mean of a strip's first 8 pixels of 64."""
    x, weight, bias, _ = _inputs(1, 8, 8, 16)
    x[:, 0] += 1e5
    got = ops.group_norm_silu(x, weight, bias, 4, silu=False)
    exact = reference.group_norm_silu(*(t.double() for t in (x, weight, bias)), 4, silu=False)
    assert (got - exact).abs().max() < 1e-5


@pytest.mark.parametrize("pixels", [1, 7, 8, 9, 63, 64, 65, 128, 130])
def test_every_length_of_the_last_strip(pixels):
    x, weight, bias, x2 = _inputs(2, 1, pixels, 19, c2=5)
    got = ops.group_norm_silu(x, weight, bias, 3, x2=x2)
    exact = reference.group_norm_silu(*(t.double() for t in (x, weight, bias)), 3, x2=x2.double())
    torch.testing.assert_close(got.double(), exact, atol=2e-6, rtol=2e-6)


def test_two_inputs_equal_their_concatenation():
    """To the bit, since a channel's statistics do not know which tensor it came from."""
    x, weight, bias, x2 = _inputs(2, 9, 9, 48, c2=16)
    both = torch.cat([x, x2], dim=-1)
    assert torch.equal(
        ops.group_norm_silu(x, weight, bias, 8, x2=x2), ops.group_norm_silu(both, weight, bias, 8)
    )


def test_scale_and_shift_applied_are_the_norm():
    x, weight, bias, x2 = _inputs(2, 9, 9, 30, c2=12)
    scale, shift = ops.group_norm_scale_shift(x, weight, bias, 7, x2=x2)
    assert scale.shape == shift.shape == (2, 42)
    for silu in (False, True):
        torch.testing.assert_close(
            apply_scale_shift(x, scale, shift, silu, x2),
            ops.group_norm_silu(x, weight, bias, 7, x2=x2, silu=silu),
            atol=2e-6,
            rtol=2e-6,
        )


def test_weights_in_another_dtype():
    x, weight, bias, _ = _inputs(2, 5, 5, 16)
    half = ops.group_norm_silu(x, weight.half(), bias.half(), 4)
    assert torch.equal(half, ops.group_norm_silu(x, weight.half().float(), bias.half().float(), 4))


def test_an_nchw_tensor_seen_as_nhwc_is_copied():
    x, weight, bias, _ = _inputs(2, 5, 6, 16)
    strided = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert not strided.is_contiguous()
    assert torch.equal(
        ops.group_norm_silu(strided, weight, bias, 4), ops.group_norm_silu(x, weight, bias, 4)
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_value_spoils_its_group_and_no_other(value):
    x, weight, bias, _ = _inputs(2, 5, 5, 16)
    x[1, 2, 2, 5] = value
    got = ops.group_norm_silu(x, weight, bias, 4)
    assert got[1, ..., 4:8].isnan().all()
    got[1, ..., 4:8] = 0
    assert got.isfinite().all()


def test_an_empty_batch():
    assert ops.group_norm_silu(torch.empty(0, 4, 4, 8), *torch.ones(2, 8), 2).shape == (0, 4, 4, 8)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"groups": 5}, r"group_norm_silu: groups: expected a divisor of 16, got 5"),
        ({"groups": 0}, "groups: expected a divisor of 16, got 0"),
        ({"eps": -1.0}, "eps: expected at least 0, got -1.0"),
        ({"weight": torch.ones(8)}, r"weight: expected shape \[16\], got \[8\]"),
        ({"bias": torch.ones(16, dtype=torch.int32)}, "bias: expected a floating-point dtype"),
        ({"x2": torch.ones(2, 5, 4, 3)}, r"x2: expected shape \[2, 5, 6, \*\], got \[2, 5, 4, 3\]"),
        ({"x2": torch.ones(2, 5, 6, 4).half()}, "x2: expected x's dtype torch.float32"),
        ({"x": torch.ones(2, 16)}, r"x: expected 4 dimensions \[N, H, W, C\], got \[2, 16\]"),
        ({"x": torch.ones(2, 0, 6, 16)}, "x: expected at least one pixel"),
        ({"x": torch.ones(2, 5, 6, 16, dtype=torch.int64)}, "floating-point dtype"),
    ],
)
def test_refusals(change, complaint):
    x, weight, bias, _ = _inputs(2, 5, 6, 16)
    arguments = {"x": x, "weight": weight, "bias": bias, "groups": 4} | change
    with pytest.raises(RequestError, match=complaint):
        ops.group_norm_silu(**arguments)
    with pytest.raises(ValueError, match=complaint.removeprefix("group_norm_silu")):
        ops.group_norm_scale_shift(**arguments)
