"""What token models are made of: drawing, filtering, attention with a cache."""

import math

import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pyengine import ops
from pyengine.ops import filter_logits, sampling_settings


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sample_token(logits, uniform, *, unconditional=None, **how):
    """ops.sample_token with the same settings for every row; uniform: None where none is read."""
    if uniform is None:
        uniform = torch.full((len(logits),), 0.5)
    settings = sampling_settings(len(logits), **how)
    rows = logits if unconditional is None else torch.cat([unconditional, logits])
    return ops.sample_token(rows, uniform, settings)


def warped(logits, temperature, top_k, top_p, min_p):
    """What transformers leaves of the logits."""
    warpers = [TemperatureLogitsWarper(temperature)]
    warpers += [TopKLogitsWarper(top_k)] if top_k else []
    warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    warpers += [MinPLogitsWarper(min_p)] if min_p else []
    for warper in warpers:
        logits = warper(None, logits)
    return logits


FILTERS = [
    (1.0, 0, 1.0, 0.0), (0.7, 5, 1.0, 0.0), (1.3, 0, 0.8, 0.0), (1.0, 0, 1.0, 0.2),
    (2.0, 10, 0.9, 0.1), (0.5, 1, 1.0, 0.0), (1.0, 0, 1e-6, 0.0), (1.0, 500, 0.999, 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("temperature", "top_k", "top_p", "min_p"), FILTERS)
def test_filters_leave_what_transformers_leaves(temperature, top_k, top_p, min_p):
    logits = 3 * noise(40, 57)
    want = warped(logits, temperature, top_k, top_p, min_p)
    got = filter_logits(logits / temperature, top_k, top_p, min_p)
    assert torch.equal(got.isinf(), want.isinf())
    assert torch.equal(got.softmax(-1), want.softmax(-1))
    assert (~got.isinf()).any(dim=1).all()


def test_equal_logits():
    """Of equals top-k keeps all, as transformers does; top-p keeps those with lower indices."""
    logits = torch.zeros(1, 8)
    assert not filter_logits(logits, 3, 1.0, 0.0).isinf().any()
    kept = ~filter_logits(logits, 0, 0.5, 0.0).isinf()
    assert kept[0].tolist() == [True] * 4 + [False] * 4
    assert sample_token(logits, None, temperature=0).tolist() == [0]


def test_a_draw_is_the_inverse_of_the_cumulative_distribution():
    logits = torch.tensor([0.1, 0.4, 0.0, 0.25, 0.25]).log()[None]
    points = [0.0, 0.0999, 0.1001, 0.4999, 0.5001, 0.7499, 0.7501, 1 - 2**-53]
    u = torch.tensor(points, dtype=torch.float64)
    drawn = sample_token(logits.expand(len(u), -1), u)
    assert drawn.tolist() == [0, 0, 1, 1, 3, 3, 4, 4]


def test_the_last_number_below_one_draws_a_token_that_may_be_drawn():
    logits = noise(200, 9)
    logits[:, 6:] = float("-inf")
    u = torch.full((200,), 1 - 2**-53, dtype=torch.float64)
    assert (sample_token(logits, u) == 5).all()
    assert (sample_token(logits, torch.zeros(200, dtype=torch.float64)) == 0).all()


@pytest.mark.parametrize(("temperature", "top_k", "top_p", "min_p"), FILTERS)
def test_the_distribution(temperature, top_k, top_p, min_p):
    """Chi-square of 50,000 draws against the probabilities that transformers' filters leave."""
    logits = 2 * noise(1, 23, seed=5)
    n = 50_000
    u = torch.rand(n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    drawn = sample_token(
        logits.expand(n, -1), u, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p
    )
    p = warped(logits, temperature, top_k, top_p, min_p).double().softmax(-1)[0]
    counts = torch.bincount(drawn, minlength=23).double()
    assert counts[p == 0].sum() == 0
    likely = p * n > 5
    chi = ((counts - p * n) ** 2 / (p * n))[likely].sum()
    freedom = max(int(likely.sum()) - 1, 1)
    # Wilson-Hilferty: 4 standard deviations, once in 30,000 by chance; the seed is fixed.
    limit = freedom * (1 - 2 / (9 * freedom) + 4 * math.sqrt(2 / (9 * freedom))) ** 3
    assert chi <= limit


def test_a_temperature_next_to_zero():
    logits = 50 * noise(20, 30)
    u = torch.rand(20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for temperature in (1e-3, 1e-30, 1e-45):
        assert torch.equal(sample_token(logits, u, temperature=temperature), logits.argmax(-1))


def test_guidance():
    logits, other = noise(4, 9), noise(4, 9, seed=1)
    u = torch.rand(4, dtype=torch.float64)
    assert torch.equal(sample_token(logits, u, guidance=7.0), sample_token(logits, u))
    want = (other + 3.0 * (logits - other)).argmax(-1)
    got = sample_token(logits, None, unconditional=other, guidance=3.0, temperature=0)
    assert torch.equal(got, want)


def test_a_row_does_not_depend_on_the_others():
    logits = noise(16, 300)
    u = torch.rand(16, dtype=torch.float64)
    how = {"temperature": 0.8, "top_k": 100, "top_p": 0.95, "min_p": 0.01}
    drawn = sample_token(logits, u, **how)
    for i in range(16):
        assert sample_token(logits[i : i + 1], u[i : i + 1], **how)[0] == drawn[i]


def test_nearest_entries():
    """Exact where x lies next to entries that are far from the origin."""
    codebook = 1000 + noise(300, 8, seed=2)
    x = codebook[torch.arange(300).flip(0)] + 1e-3 * noise(300, 8)
    assert torch.equal(
        ops.vq_argmin(x.view(30, 10, 8), codebook).flatten(), torch.arange(300).flip(0)
    )
    twice = torch.cat([codebook, codebook])
    assert int(ops.vq_argmin(x, twice).max()) < 300
