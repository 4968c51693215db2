"""What linear does beyond the promises."""

import pytest
import torch

from pyengine import ops
from pyengine.errors import RequestError


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
        ({"weight": torch.ones(8, 4).half()}, "weight: expected x's dtype torch.float32"),
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
