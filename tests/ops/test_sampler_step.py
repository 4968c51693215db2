"""What sampler_step does beyond the promises."""

import pytest
import torch

from pyengine import ops
from pyengine.errors import RequestError
from pyengine.ops import COLUMNS, reference
from pyengine.ops._core import core


def _row(**columns):
    coeffs = torch.zeros(1, len(COLUMNS))
    coeffs[0, COLUMNS.index("limit")] = float("inf")
    for name, value in columns.items():
        coeffs[0, COLUMNS.index(name)] = value
    return coeffs


def test_the_kernels_columns_are_the_specifications():
    assert len(COLUMNS) == core().SAMPLER_COLUMNS


@pytest.mark.parametrize("column", COLUMNS)
def test_each_column_does_what_the_specification_says(column):
    """One column at a time, so that no two can be taken for each other."""
    generator = torch.Generator().manual_seed(3)
    x, out, *rest = torch.randn(9, 1, 5, 5, generator=generator)
    out = torch.stack([out[0], rest.pop()[0]])
    base = {"g": 1.5, "p": 0.5, "q": 2.0, "limit": 0.7, "dscale": 1.25, "x_d": 1.0, "y_d": 1.0}
    base |= {"x_noise": 1.0}
    coeffs = _row(**(base | {column: base.get(column, 0.0) + 0.375}))
    got = ops.sampler_step(x, out, coeffs, *rest)
    want = reference.sampler_step(*(t.double() for t in (x, out, coeffs, *rest)))
    plain = reference.sampler_step(x, out, _row(**base), *rest)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b, atol=1e-6, rtol=1e-6)
    assert any(not torch.equal(a, b) for a, b in zip(got, plain, strict=True))


def test_every_picture_has_its_own_row():
    x, out = torch.randn(2, 3, 4, 5, 5)
    coeffs = torch.cat([_row(x_x=1.0), _row(x_m=1.0), _row(x_x=0.5, x_m=0.5)])
    new, _, _ = ops.sampler_step(x, out, coeffs)
    assert torch.equal(new[0], x[0])
    assert torch.equal(new[1], out[1])
    torch.testing.assert_close(new[2], (x[2] + out[2]) / 2)


def test_nan_comes_through_the_clip():
    x, out = torch.randn(2, 1, 4, 40)
    out[0, 2, 33] = float("nan")
    for result in ops.sampler_step(x, out, _row(q=1.0, limit=0.5, dscale=1.0, x_d=1.0, y_d=1.0)):
        assert result.isnan().nonzero().tolist() == [[0, 2, 33]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_more_precise_than_the_samples(dtype):
    x, out = torch.randn(2, 4, 3, 7, 7).to(dtype)
    x, out, coeffs = x[:2], out.float() + 1e-4, torch.randn(2, len(COLUMNS)).abs()
    for a, b in zip(
        ops.sampler_step(x, out, coeffs), reference.sampler_step(x, out, coeffs), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_strided_samples_and_an_empty_batch():
    x, out = torch.randn(2, 2, 4, 6, 6)
    coeffs = _row(x_x=0.5, x_m=0.25).expand(2, -1)
    strided = x.transpose(2, 3).contiguous().transpose(2, 3)
    for a, b in zip(
        ops.sampler_step(strided, out, coeffs), ops.sampler_step(x, out, coeffs), strict=True
    ):
        assert torch.equal(a, b)
    empty = torch.empty(0, 4, 6, 6)
    assert ops.sampler_step(empty, empty, torch.empty(0, len(COLUMNS)))[0].shape == (0, 4, 6, 6)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"out": torch.ones(3, 4, 5)}, r"out: expected shape \[2, 4, 5\], got \[3, 4, 5\]"),
        ({"out": torch.ones(4, 4, 6)}, r"out: expected shape \[4, 4, 5\], got \[4, 4, 6\]"),
        ({"coeffs": torch.ones(2, 3)}, r"coeffs: expected shape \[2, 21\], got \[2, 3\]"),
        ({"coeffs": torch.ones(1, 21)}, r"coeffs: expected shape \[2, 21\], got \[1, 21\]"),
        ({"d1": torch.ones(2, 4)}, r"d1: expected shape \[2, 4, 5\], got \[2, 4\]"),
        ({"noise": torch.ones(2, 4, 5).half()}, "noise: expected x's dtype torch.float32"),
        ({"out": torch.ones(2, 4, 5, dtype=torch.int32)}, "out: expected a floating-point dtype"),
    ],
)
def test_refusals(change, complaint):
    x = torch.ones(2, 4, 5)
    arguments = {"x": x, "out": x, "coeffs": torch.ones(2, len(COLUMNS))} | change
    with pytest.raises(RequestError, match=f"sampler_step: {complaint}"):
        ops.sampler_step(**arguments)
