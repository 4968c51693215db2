"""What vq_argmin does beyond the promises: indices that float32 alone would not have right."""

import pytest
import torch
from instruction_sets import ISAS

from pyengine import ops
from pyengine.errors import RequestError
from pyengine.ops import reference


def _both(x, codebook, **more):
    """(ours, the specification's) indices and distances."""
    got = ops.vq_argmin(x, codebook, return_distances=True, **more)
    with ops.kernels_used() as used:
        ops.vq_argmin(x, codebook, **more)
    assert used.summary() == {"vq_argmin": f"cpu-{ops.isa()}"}
    return got, reference.vq_argmin(x, codebook, return_distances=True, **more)


def _equal(x, codebook, **more):
    (index, distance), (want_index, want_distance) = _both(x, codebook, **more)
    assert torch.equal(index, want_index)
    # Rounded once, of sums in float64 that may differ in their last bits; NaN where it is NaN.
    torch.testing.assert_close(distance, want_distance, rtol=1.2e-7, atol=1e-15, equal_nan=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_equals_float64_at_every_width(isa, metric, offset, use_isa):
    """An offset of 1000 leaves float32 four digits of the differences; none may be lost."""
    use_isa(isa)
    generator = torch.Generator().manual_seed(5)
    # In one dimension all directions are the same, and what tells them apart is rounding.
    widths = (2, 3, 4, 5, 8, 9, 16, 31, 64, 130, 512, 700) + (() if metric == "cosine" else (1,))
    for width in widths:
        for rows, entries in ((1, 1), (7, 50), (13, 401)):
            x = offset + torch.randn(rows, width, generator=generator)
            codebook = offset + torch.randn(entries, width, generator=generator)
            _equal(x, codebook, metric=metric)


@pytest.mark.parametrize("isa", ISAS)
def test_a_large_codebook_and_many_rows(isa, use_isa):
    """Several panels a group, several blocks of rows, the last of each partly filled."""
    use_isa(isa)
    torch.manual_seed(6)
    _equal(torch.randn(211, 8), torch.randn(40003, 8))


def test_a_codebook_of_262144_entries():
    torch.manual_seed(7)
    _equal(torch.randn(9, 2), torch.randn(262144, 2))


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_ties_go_to_the_lowest_index(metric):
    torch.manual_seed(8)
    half = torch.randn(200, 6)
    codebook = torch.cat([half, half, half])
    x = half[torch.randint(0, 200, (50,))] + 0.01 * torch.randn(50, 6)
    index = ops.vq_argmin(x, codebook, metric=metric)
    assert index.max() < 200
    assert torch.equal(index, reference.vq_argmin(x, codebook, metric=metric))
    # Whole numbers: exactly as far from several different entries.
    grid = torch.cartesian_prod(*[torch.arange(-3.0, 4.0)] * 3)
    x = torch.randint(-6, 7, (300, 3)) / 2
    assert torch.equal(ops.vq_argmin(x, grid), reference.vq_argmin(x, grid))
    assert ops.vq_argmin(torch.zeros(9, 4), torch.ones(70, 4)).eq(0).all()


def test_entries_that_differ_in_the_last_bit():
    """Distances apart by one part in ten million; float32 scores cannot tell them apart."""
    torch.manual_seed(9)
    base = torch.randn(8)
    codebook = base + torch.randint(-3, 4, (1000, 8)) * torch.finfo(torch.float32).eps
    _equal(base + 0.5 + torch.randn(30, 8) * 1e-6, codebook)
    _equal(100 * torch.randn(30, 8), codebook)


def test_an_entry_far_outside_costs_the_others_no_digits():
    torch.manual_seed(10)
    codebook = torch.randn(500, 8)
    codebook[77] = 1e6
    codebook[78] = -1e15
    _equal(torch.cat([torch.randn(40, 8), codebook[77:79]]), codebook)


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e17, 1e30, 3e38])
@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_no_scale_overflows(scale, metric):
    torch.manual_seed(11)
    x, codebook = torch.rand(20, 8) * scale, torch.rand(300, 8) * scale
    index = ops.vq_argmin(x, codebook, metric=metric)
    assert torch.equal(index, reference.vq_argmin(x, codebook, metric=metric))


@pytest.mark.parametrize("isa", ISAS)
def test_nan_and_infinity(isa, use_isa):
    """NaN counts as infinitely far; where all is, the first entry. Other rows are not touched."""
    use_isa(isa)
    torch.manual_seed(12)
    x, codebook = torch.randn(12, 8), torch.randn(100, 8)
    x[3, 2], x[5, 7], x[6, 0] = torch.nan, torch.inf, -torch.inf
    codebook[0, 1], codebook[50, 0], codebook[51, 0] = torch.nan, torch.inf, torch.nan
    for metric in ("l2", "cosine"):
        _equal(x, codebook, metric=metric)
        index, distance = ops.vq_argmin(x, codebook, metric=metric, return_distances=True)
        assert index[3] == 0
        assert distance[3].isnan()
        assert not set(index.tolist()) & {50, 51}
    assert ops.vq_argmin(x, torch.full((40, 8), torch.nan)).eq(0).all()


def test_zero_is_at_a_right_angle_to_everything():
    torch.manual_seed(13)
    codebook = torch.randn(60, 5)
    codebook[7] = 0
    x = torch.cat([torch.zeros(1, 5), -codebook[:20], torch.randn(20, 5)])
    _equal(x, codebook, metric="cosine")
    index, distance = ops.vq_argmin(x, codebook, metric="cosine", return_distances=True)
    assert (index[0], distance[0]) == (0, 1)
    towards = torch.rand(9, 5)
    assert ops.vq_argmin(-towards, torch.cat([towards, codebook[7:8]]), metric="cosine").eq(9).all()


def test_the_kinds_of_codebook():
    torch.manual_seed(14)
    x, books = torch.randn(4, 9, 12), torch.randn(3, 70, 12)
    parts = books[:, :, :4].contiguous()
    product = ops.vq_argmin(x, parts)
    assert product.shape == (4, 9, 3)
    for g in range(3):
        assert torch.equal(product[..., g], ops.vq_argmin(x[..., 4 * g : 4 * g + 4], parts[g]))
    index, distance = ops.vq_argmin(x, books, residual=True, return_distances=True)
    rest = x.double()
    for g in range(3):
        assert torch.equal(index[..., g], reference.vq_argmin(rest, books[g].double()))
        rest = rest - books[g][index[..., g]]
        torch.testing.assert_close(distance[..., g], rest.square().sum(-1).float())
    one = ops.vq_argmin(x, books[:1])
    assert torch.equal(one[..., 0], ops.vq_argmin(x, books[0]))


def test_layouts_dtypes_and_an_empty_batch():
    torch.manual_seed(15)
    x, codebook = torch.randn(6, 8, 10), torch.randn(40, 6)
    strided = x.transpose(0, 2)
    assert torch.equal(
        ops.vq_argmin(strided, codebook), ops.vq_argmin(strided.contiguous(), codebook)
    )
    half = x.transpose(0, 2).bfloat16()
    assert torch.equal(
        ops.vq_argmin(half, codebook.half()),
        reference.vq_argmin(half.double(), codebook.half().double()),
    )
    assert ops.vq_argmin(torch.empty(0, 6), codebook).shape == (0,)
    double = ops.vq_argmin(strided.double(), codebook.double(), return_distances=True)
    assert double[1].dtype == torch.float64


def test_no_gradient_passes():
    x, codebook = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    index, distance = ops.vq_argmin(x, codebook, return_distances=True)
    assert not index.requires_grad
    assert not distance.requires_grad


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"x": torch.ones(3, 5)},
            r"x: expected 4 in its last dimension, as codebook, got \[3, 5\]",
        ),
        (
            {"codebook": torch.ones(4)},
            r"codebook: expected shape \[K, d\] or \[G, K, d\], got \[4\]",
        ),
        ({"codebook": torch.ones(0, 4)}, r"codebook: expected at least one entry"),
        ({"codebook": torch.ones(9, 4).long()}, "codebook: expected a floating-point dtype"),
        ({"codebook": torch.ones(2, 9, 4)}, "x: expected 8 in its last dimension"),
        ({"residual": True}, r"codebook: expected shape \[G, K, d\] for residual levels"),
        ({"metric": "dot"}, "metric: expected one of l2, cosine, got 'dot'"),
        (
            {"codebook": torch.ones(2, 9, 4), "residual": True, "metric": "cosine"},
            "metric: expected l2 for residual levels",
        ),
    ],
)
def test_refusals(change, complaint):
    arguments = {"x": torch.ones(3, 4), "codebook": torch.ones(9, 4)} | change
    with pytest.raises(RequestError, match=f"vq_argmin: {complaint}"):
        ops.vq_argmin(**arguments)
