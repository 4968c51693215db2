"""What layer_norm does beyond the promises."""

import pytest
import torch
import torch.nn.functional as F

from pyengine import ops
from pyengine.errors import RequestError


@pytest.mark.parametrize("width", [1, 2, 3, 15, 16, 17, 63, 64, 65, 129, 2047, 2048, 2049, 5000])
def test_every_kind_of_tail(width):
    x = torch.randn(3, width, generator=torch.Generator().manual_seed(width))
    exact = F.layer_norm(x.double(), (width,))
    torch.testing.assert_close(ops.layer_norm(x, None, None).double(), exact, atol=3e-6, rtol=1e-6)


@pytest.mark.parametrize("mean", [1e3, -1e5])
def test_variance_survives_a_mean_far_away(mean):
    x = torch.randn(4, 320, generator=torch.Generator().manual_seed(1)) + mean
    exact = F.layer_norm(x.double(), (320,))
    assert (ops.layer_norm(x, None, None) - exact).abs().max() < 1e-5


def test_weight_and_bias_are_optional_one_by_one():
    x, weight, bias = torch.randn(5, 33), torch.randn(33), torch.randn(33)
    for w in (None, weight):
        for b in (None, bias):
            torch.testing.assert_close(ops.layer_norm(x, w, b), F.layer_norm(x, (33,), w, b))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_bad_value_spoils_its_row_alone(value):
    x = torch.randn(3, 40)
    x[1, 17] = value
    got = ops.layer_norm(x, None, None)
    assert got[1].isnan().all()
    assert got[[0, 2]].isfinite().all()


def test_strided_and_empty_rows():
    x = torch.randn(4, 6, 40)
    part = x[..., 8:24]
    assert torch.equal(
        ops.layer_norm(part, None, None), ops.layer_norm(part.contiguous(), None, None)
    )
    assert ops.layer_norm(torch.empty(0, 8), None, None).shape == (0, 8)
    assert ops.layer_norm(torch.empty(8, 0), None, None).shape == (8, 0)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((torch.tensor(1.0), None, None), "x: expected at least one dimension, got a scalar"),
        ((torch.ones(2, 8), torch.ones(4), None), r"weight: expected shape \[8\], got \[4\]"),
        ((torch.ones(2, 8), None, torch.ones(8, 1)), r"bias: expected shape \[8\], got \[8, 1\]"),
        ((torch.ones(2, 8), None, None, -1e-5), "eps: expected at least 0"),
        ((torch.ones(2, 8, dtype=torch.int8), None, None), "floating-point dtype"),
    ],
)
def test_refusals(arguments, complaint):
    with pytest.raises(RequestError, match=f"layer_norm: .*{complaint}"):
        ops.layer_norm(*arguments)


# --- rms_norm -------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 3, 15, 16, 17, 63, 64, 65, 129, 2047, 2048, 2049, 5000])
def test_every_kind_of_tail_of_rms_norm(width):
    x = 1 + torch.randn(3, width, generator=torch.Generator().manual_seed(width))
    exact = F.rms_norm(x.double(), (width,), eps=1e-6)
    torch.testing.assert_close(ops.rms_norm(x).double(), exact, atol=1e-6, rtol=1e-6)


def test_rms_norm_of_strided_empty_and_bad_rows():
    x = torch.randn(4, 6, 40)
    part = x[..., 8:24]
    assert torch.equal(ops.rms_norm(part), ops.rms_norm(part.contiguous()))
    assert ops.rms_norm(torch.empty(0, 8)).shape == (0, 8)
    assert ops.rms_norm(torch.empty(8, 0)).shape == (8, 0)
    x[1, 2, 3] = float("nan")
    assert ops.rms_norm(x).isnan().nonzero()[:, :2].unique(dim=0).tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((torch.tensor(1.0),), "x: expected at least one dimension, got a scalar"),
        ((torch.ones(2, 8), torch.ones(4)), r"weight: expected shape \[8\], got \[4\]"),
        ((torch.ones(2, 8), None, -1e-5), "eps: expected at least 0"),
    ],
)
def test_rms_norm_refuses(arguments, complaint):
    with pytest.raises(RequestError, match=f"rms_norm: .*{complaint}"):
        ops.rms_norm(*arguments)
