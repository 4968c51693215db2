"""Distances between sets of pictures against torchmetrics' and the formulas written out."""

import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from pyengine.errors import RequestError
from pyengine.metrics import (
    DensityCoverage,
    FrechetDistance,
    KernelDistance,
    Moments,
    PrecisionRecall,
    bits_per_dimension,
)


class Colours(torch.nn.Module):
    """Means of quarters of a picture: [N, 12]."""

    name = "colours"

    def forward(self, images):
        n = len(images)
        return torch.nn.functional.adaptive_avg_pool2d(images.double() / 64, 2).reshape(n, 12)


def pictures(seed, n, low=0, high=256):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (n, 3, 9, 7), dtype=torch.uint8, generator=g)


REAL, DRAWN = pictures(1, 60), pictures(2, 47, 20, 240)


def filled(metric):
    for part in REAL.split([25, 1, 34]):
        metric.update(part, real=True)
    for part in DRAWN.split(16):
        metric.update(part, real=False)
    return metric


def test_frechet_distance_is_torchmetrics():
    # Its inception's size is asked of a picture of its own.
    theirs = FrechetInceptionDistance(Colours(), input_img_size=(3, 9, 7))
    theirs.set_dtype(torch.float64)
    assert float(filled(FrechetDistance(Colours())).compute()) == pytest.approx(
        float(filled(theirs).compute()), rel=1e-6
    )


def test_frechet_distance_is_its_formula():
    a, b = (Colours()(x).double().numpy() for x in (REAL, DRAWN))
    c, d = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(c @ d).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c + d - 2 * root)
    assert float(filled(FrechetDistance(Colours())).compute()) == pytest.approx(expected, rel=1e-9)


def test_few_pictures_are_told_and_shrunk():
    few = FrechetDistance(Colours())
    few.update(REAL[:10], real=True)
    few.update(REAL[10:20], real=False)
    with pytest.warns(UserWarning, match="10 pictures for 12 features"):
        plain = few.compute()
    shrunk = FrechetDistance(Colours(), shrinkage="oas")
    shrunk.merge_state(few)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0 <= shrunk.compute() < plain  # both are drawn from the same distribution
    report = shrunk.report()
    assert (report["real"], report["dimensions"], report["features"]) == (10, 12, "colours")
    assert all(0 < share <= 1 for share in report["shrinkage"])


def test_oracle_shrinkage_is_sklearns_formula():
    """Equation 23 of Chen et al. 2010, written out by elements."""
    moments = Moments()
    x = Colours()(REAL[:15])
    moments.update(x)
    s = np.cov(x.double().numpy().T, bias=True)
    n, p = x.shape
    tr2, sq = np.trace(s) ** 2, np.trace(s @ s)
    rho = ((1 - 2 / p) * sq + tr2) / ((n + 1 - 2 / p) * (sq - tr2 / p))
    assert moments.oracle_shrinkage() == pytest.approx(min(rho, 1), rel=1e-12)


def test_moments_hold_where_sums_of_squares_cancel():
    x = torch.randn(500, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 1e7
    one, two, whole = Moments(), Moments(), Moments()
    for part in x[:200].split(7):
        one.update(part)
    for part in x[200:].split(31):
        two.update(part)
    one.merge(two)
    whole.update(x)
    expected = torch.from_numpy(np.cov(x.numpy().T))
    for moments in (one, whole):
        assert torch.allclose(moments.covariance(), expected, rtol=1e-6, atol=1e-8)
    assert one.count == 500


@pytest.mark.parametrize("size", [47, 20], ids=["all", "subsets"])
def test_kernel_distance_is_torchmetrics(size):
    # In float64, or theirs loses three digits in sums of cubes.
    theirs = filled(KernelInceptionDistance(Colours(), subsets=5, subset_size=size))
    ours = filled(KernelDistance(Colours(), subsets=5, subset_size=size))
    torch.manual_seed(4)
    expected = theirs.compute()
    torch.manual_seed(4)
    found = ours.compute()
    for a, b in zip(found, expected, strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-4, abs=1e-6)


def test_kernel_distance_with_a_seed_leaves_torchs_generator_alone():
    metric = filled(KernelDistance(Colours(), subsets=3, subset_size=20, seed=1))
    state = torch.get_rng_state()
    assert metric.compute() == metric.compute()
    assert torch.equal(state, torch.get_rng_state())


def _pairs(a, b):
    return np.linalg.norm(a[:, None] - b[None], axis=2)


def test_precision_and_recall_are_their_definition():
    a, b = (Colours()(x).double().numpy() for x in (REAL, DRAWN))
    ra, rb = (np.sort(_pairs(x, x), axis=1)[:, 3] for x in (a, b))
    found = filled(PrecisionRecall(Colours())).compute()
    assert float(found.precision) == (_pairs(b, a) <= ra).any(1).mean()
    assert float(found.recall) == (_pairs(a, b) <= rb).any(1).mean()
    assert 0 < found.recall < 1  # the narrower set does not reach all


def test_density_and_coverage_are_their_definition():
    a, b = (Colours()(x).double().numpy() for x in (REAL, DRAWN))
    ra = np.sort(_pairs(a, a), axis=1)[:, 5]
    inside = _pairs(b, a) < ra
    found = filled(DensityCoverage(Colours())).compute()
    assert float(found.density) == pytest.approx(inside.sum() / (5 * len(b)), rel=1e-12)
    assert float(found.coverage) == inside.any(0).mean()


METRICS = {
    "frechet": lambda: FrechetDistance(Colours()),
    "kernel": lambda: KernelDistance(Colours(), subsets=4, subset_size=20, seed=3),
    "precision": lambda: PrecisionRecall(Colours()),
    "density": lambda: DensityCoverage(Colours()),
}


@pytest.mark.parametrize("make", METRICS.values(), ids=METRICS)
def test_machines_are_joined(make):
    one, two, whole = make(), make(), filled(make())
    one.update(REAL[:25], real=True)
    two.update(REAL[25:], real=True)
    one.update(DRAWN[:10], real=False)
    two.update(DRAWN[10:], real=False)
    one.merge_state(two)
    for a, b in zip(np.ravel(one.compute()), np.ravel(whole.compute()), strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-9)


@pytest.mark.parametrize("make", METRICS.values(), ids=METRICS)
def test_reset_forgets(make):
    metric = filled(make())
    before = metric.compute()
    metric.reset()
    with pytest.raises(RequestError, match="real ones"):
        metric.compute()
    filled(metric)
    assert np.array_equal(np.ravel(metric.compute()), np.ravel(before))
    metric.reset_real_features = False
    metric.reset()
    with pytest.raises(RequestError, match="generated ones"):
        metric.compute()


@pytest.mark.parametrize("make", list(METRICS.values())[1:], ids=list(METRICS)[1:])
def test_a_bounded_sample_is_that_of_its_parts(make):
    """Of more pictures than are kept, which ones stay does not depend on machine or order."""

    def small():
        metric = make()
        metric.capacity = 30
        metric.reset()
        return metric

    whole, one, two = small(), small(), small()
    for part in REAL.split(9):
        whole.update(part, real=True)
    one.update(REAL[40:], real=True)
    two.update(REAL[:40], real=True)
    one.merge_state(two)
    sets = [{tuple(row) for row in m.real.rows().tolist()} for m in (whole, one)]
    assert sets[0] == sets[1]
    assert len(sets[0]) == 30
    assert one.real.seen == 60


def test_a_million_rows_take_no_more_memory():
    metric = FrechetDistance(Colours())
    block = torch.randn(50_000, 12, generator=torch.Generator().manual_seed(1))
    for _ in range(20):
        metric.update_features(block, real=True)
    held = metric.real.mean.nbytes + metric.real.scatter.nbytes
    assert metric.real.count == 1_000_000
    assert held == 12 * 8 + 12 * 12 * 8


def test_bits_per_dimension():
    # A uniform distribution over all pictures takes 8 bits a number; one of half the range 7.
    assert float(bits_per_dimension(torch.tensor(0.0), 12)) == 8
    nats = torch.tensor([12 * np.log(2.0)])
    assert bits_per_dimension(nats, 12).tolist() == pytest.approx([7])


def test_what_is_wrong_is_said():
    metric = FrechetDistance(Colours())
    with pytest.raises(RequestError, match=r"uint8 \[N, 3, H, W\], given uint8 \[2, 9, 7, 3\]"):
        metric.update(torch.zeros(2, 9, 7, 3, dtype=torch.uint8), real=True)
    with pytest.raises(RequestError, match="real: expected True or False, given 1"):
        metric.update(REAL, real=1)
    with pytest.raises(RequestError, match="NaN"):
        metric.update_features(torch.full((2, 3), torch.nan), real=True)
    with pytest.raises(RequestError, match="features: expected a function"):
        FrechetDistance(2048)
    with pytest.raises(RequestError, match='shrinkage: expected a number from 0 to 1, or "oas"'):
        FrechetDistance(Colours(), shrinkage=2)
    with pytest.raises(RequestError, match="a KernelDistance, given FrechetDistance"):
        KernelDistance(Colours()).merge_state(metric)
    metric.update(REAL, real=True)
    with pytest.raises(RequestError, match="expected 12 features as before, given 5"):
        metric.update_features(torch.zeros(3, 5), real=True)
