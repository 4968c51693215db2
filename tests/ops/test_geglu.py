"""What geglu and swiglu do beyond the promises; the accuracy of GELU over its whole range.

What they make of infinities and of what is near them: test_special_values.py.
"""

import pytest
import torch
import torch.nn.functional as F
from instruction_sets import ISAS

from pyengine import ops
from pyengine.errors import RequestError


def _gelu(gate):
    """GELU by the op under test."""
    return ops.geglu(torch.stack([torch.ones_like(gate), gate], dim=-1)).squeeze(-1)


@pytest.mark.parametrize("isa", ISAS)
def test_gelu_is_accurate_to_the_last_bits_over_its_whole_range(isa, use_isa):
    """Relative to the result, also in the lower tail, where 1 + erf would cancel."""
    use_isa(isa)
    x = torch.cat([torch.linspace(-12.9, 10, 400_001), torch.logspace(-38, 0, 20_001)])
    x = torch.cat([x, -x])
    x = x[(x > -12.9) & (x < 10)]
    wide = x.double()
    exact = wide * 0.5 * torch.special.erfc(-wide * 0.5**0.5)
    normal = exact.abs() > 1.2e-38  # the least float32 with all its bits
    error = ((_gelu(x) - exact) / exact).abs()[normal]
    assert error.max() < 6 * 2**-24  # 3 units in the last place
    assert error.square().mean().sqrt() < 2**-24


@pytest.mark.parametrize("width", [1, 3, 7, 8, 9, 15, 16, 17, 31, 33])
def test_every_kind_of_tail(width):
    x = torch.randn(3, 2 * width)
    value, gate = x.double().chunk(2, dim=-1)
    torch.testing.assert_close(ops.geglu(x).double(), value * F.gelu(gate), atol=1e-6, rtol=1e-6)


def test_strided_and_empty():
    x = torch.randn(4, 6, 40)
    assert torch.equal(ops.geglu(x[..., :24]), ops.geglu(x[..., :24].contiguous()))
    assert ops.geglu(torch.empty(0, 8)).shape == (0, 4)
    assert ops.geglu(torch.empty(3, 0)).shape == (3, 0)


def test_refusals():
    with pytest.raises(RequestError, match=r"x: expected an even last dimension, got \[2, 7\]"):
        ops.geglu(torch.ones(2, 7))
    with pytest.raises(RequestError, match="geglu: x: expected at least one dimension"):
        ops.geglu(torch.tensor(1.0))
    with pytest.raises(RequestError, match=r"geglu: x: expected a floating-point dtype.*int32"):
        ops.geglu(torch.ones(2, 8, dtype=torch.int32))


# --- swiglu ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 3, 7, 8, 9, 15, 16, 17, 31, 33])
def test_every_kind_of_tail_of_swiglu(width):
    value, gate = 3 * torch.randn(2, 4, width, generator=torch.Generator().manual_seed(width))
    exact = value.double() * F.silu(gate.double())
    got = ops.swiglu(torch.cat([value, gate], dim=-1))
    torch.testing.assert_close(got.double(), exact, atol=1e-30, rtol=4e-7)


def test_swiglu_refuses_an_odd_width():
    with pytest.raises(RequestError, match=r"swiglu: x: expected an even last dimension, got"):
        ops.swiglu(torch.ones(2, 3))
    with pytest.raises(RequestError, match="swiglu: x: expected at least one dimension"):
        ops.swiglu(torch.tensor(1.0))
