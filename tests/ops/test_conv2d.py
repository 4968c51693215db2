"""What conv2d does beyond the promises."""

import pytest
import torch

from pyengine import ops
from pyengine.errors import RequestError
from pyengine.ops import reference


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
        ({"stride": 0}, "stride: expected at least 1, got 0"),
        ({"padding": (1, 1)}, "padding: expected 4 sizes"),
        ({"padding": (1, 1, -1, 1)}, "padding: expected 4 sizes"),
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
