"""What mask_refine does beyond the promises: aMUSEd's scheduler, step by step."""

import pytest
import torch

from pyengine import ops
from pyengine.errors import RequestError
from pyengine.ops import places_to_mask

MASK = 60


class _Noise:
    """The numbers that diffusers draws in a step, in its order, from a generator like its own."""

    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def race(self, *shape):
        return torch.empty(shape).exponential_(generator=self.generator)

    def gumbel(self, *shape):
        return torch.empty(shape).uniform_(0, 1, generator=self.generator)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("temperature", [(2, 0), (1.3, 0.4)])
def test_equals_diffusers_scheduler_step_by_step(schedule, temperature):
    from diffusers import AmusedScheduler

    torch.manual_seed(1)
    n, places, size, steps = 3, 36, 50, 8
    scheduler = AmusedScheduler(mask_token_id=MASK, masking_schedule=schedule)
    scheduler.set_timesteps(steps, temperature=temperature)
    theirs = torch.Generator().manual_seed(7)
    noise = _Noise(7)
    tokens = torch.full((n, places), MASK)
    tokens[1, :5] = torch.arange(5)
    for step, timestep in enumerate(scheduler.timesteps):
        logits = 2 * torch.randn(n, places, size)
        want = scheduler.step(logits, timestep, tokens, generator=theirs)
        race = noise.race(n * places, size).view(n, places, size)
        last = step == steps - 1
        gumbel = torch.full((n, places), 0.5) if last else noise.gumbel(n, places)
        masked = places_to_mask(step, steps, places, schedule)
        got, predicted = ops.mask_refine(
            logits,
            tokens,
            race,
            gumbel,
            torch.full((n,), masked),
            scheduler.temperatures[step].repeat(n),
            MASK,
        )
        assert torch.equal(predicted, want.pred_original_sample)
        assert torch.equal(got, want.prev_sample)
        tokens = got
    assert not (tokens == MASK).any()


@pytest.mark.parametrize("race", [False, True])
def test_the_distribution_is_exact(race):
    """Pearson's chi-square over 100,000 places, in both ways of drawing."""
    torch.manual_seed(2)
    size, n, places = 12, 100, 1000
    u, c = 1.5 * torch.randn(2, size)
    c[3] = -torch.inf
    logits = torch.stack([u, c])[:, None, None].expand(2, n, places, size).reshape(-1, places, size)
    noise = torch.empty(n, places, size).exponential_() if race else torch.rand(n, places)
    _, predicted = ops.mask_refine(
        logits,
        torch.full((n, places), MASK),
        noise,
        torch.rand(n, places),
        torch.zeros(n, dtype=torch.int64),
        torch.ones(n),
        MASK,
        torch.full((n,), 1.5),
    )
    counts = torch.bincount(predicted.flatten(), minlength=size).double()
    scores = (u + 1.5 * (c - u)).double()
    scores[3] = -torch.inf
    expected = scores.softmax(dim=0) * n * places
    assert counts[3] == 0
    kept = expected > 0
    statistic = ((counts - expected)[kept].square() / expected[kept]).sum().item()
    assert statistic < 10 + 5 * 20**0.5


def _call(**change):
    torch.manual_seed(3)
    arguments = {
        "logits": torch.randn(2, 10, 20),
        "tokens": torch.full((2, 10), MASK),
        "noise": torch.rand(2, 10),
        "gumbel": torch.rand(2, 10),
        "masked": torch.tensor([4, 0]),
        "temperature": torch.tensor([1.0, 1.0]),
        "mask_token": MASK,
    }
    return ops.mask_refine(**arguments | change)


def test_as_many_are_masked_again_as_asked_for():
    next_tokens, predicted = _call()
    assert (next_tokens == MASK).sum(dim=1).tolist() == [4, 0]
    assert (predicted == MASK).sum() == 0
    kept = next_tokens != MASK
    assert torch.equal(next_tokens[kept], predicted[kept])
    many, _ = _call(masked=torch.tensor([10, 99]))
    assert (many == MASK).sum(dim=1).tolist() == [9, 9]  # one fewer than are unknown


def test_the_least_certain_are_masked():
    """Without noise, by probability."""
    logits = torch.zeros(1, 6, 4)
    logits[0, :, 1] = torch.tensor([9.0, 3.0, 7.0, 1.0, 5.0, 8.0]) * 10
    next_tokens, predicted = _call(
        logits=logits,
        tokens=torch.full((1, 6), MASK),
        noise=torch.full((1, 6), 0.5),
        gumbel=torch.rand(1, 6),
        masked=torch.tensor([1]),
        temperature=torch.zeros(1),
    )
    assert predicted.tolist() == [[1] * 6]
    assert next_tokens.tolist() == [[1, 1, 1, MASK, 1, 1]]


def test_what_is_known_stays():
    tokens = torch.full((2, 10), MASK)
    tokens[0, :7] = 90 + torch.arange(7)  # of any number: they index nothing
    tokens[1] = -3
    logits = torch.randn(2, 10, 20)
    logits[1] = torch.nan  # not looked at
    next_tokens, predicted = _call(tokens=tokens, logits=logits, masked=torch.tensor([9, 9]))
    for result in (next_tokens, predicted):
        assert torch.equal(result[0, :7], tokens[0, :7])
        assert torch.equal(result[1], tokens[1])
    assert (next_tokens[0] == MASK).sum() == 2
    one = tokens.clone()
    one[0, 8:] = 5
    assert (_call(tokens=one, logits=logits)[0] == MASK).nonzero().tolist() == [[0, 7]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("logits", torch.nan, "logits: expected numbers below infinity, got others in row 12"),
        ("logits", -torch.inf, "logits: expected a token that is not masked, got others in row 12"),
        (
            "noise",
            1.0,
            "noise and gumbel: expected numbers from 0 to below 1, got others in row 12",
        ),
        ("gumbel", torch.nan, "noise and gumbel: expected numbers from 0 to below 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(dtype, field, value, complaint):
    given = {"logits": torch.zeros(2, 10, 20, dtype=dtype)}
    given |= {"noise": torch.rand(2, 10), "gumbel": torch.rand(2, 10)}
    given[field][1, 2] = value
    with pytest.raises(RequestError, match=f"mask_refine: {complaint}"):
        _call(**given)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"tokens": torch.ones(2, 10)}, r"tokens: expected shape \[N, L\], dtype torch.int64"),
        ({"logits": torch.ones(4, 10, 20)}, r"logits: expected shape \[2, 10, \*\]"),
        ({"guidance": torch.ones(2)}, r"logits: expected shape \[4, 10, \*\]"),
        ({"noise": torch.ones(2, 10, 19)}, r"noise: expected shape \[2, 10, 20\]"),
        ({"gumbel": torch.ones(2, 9)}, r"gumbel: expected shape \[2, 10\]"),
        ({"masked": torch.ones(2)}, "masked: expected dtype torch.int64"),
        ({"temperature": torch.ones(3)}, r"temperature: expected shape \[2\]"),
    ],
)
def test_refusals(change, complaint):
    with pytest.raises(RequestError, match=f"mask_refine: {complaint}"):
        _call(**change)


def test_the_schedule():
    assert [places_to_mask(i, 4, 100, "linear") for i in range(4)] == [75, 50, 25, 0]
    cosine = [places_to_mask(i, 12, 256) for i in range(12)]
    assert cosine == sorted(cosine, reverse=True)
    assert cosine[-2:] == [33, 0]
    assert places_to_mask(0, 2, 1) == 1
    assert places_to_mask(1, 4, 100, "linear", start=0.5) == 25
    with pytest.raises(RequestError, match="step: expected 0 to 3, got 4"):
        places_to_mask(4, 4, 100)
    with pytest.raises(RequestError, match="schedule: expected cosine or linear"):
        places_to_mask(0, 4, 100, "square")


def test_an_empty_batch():
    empty = torch.empty(0, 10)
    results = _call(
        logits=torch.empty(0, 10, 20),
        tokens=empty.long(),
        noise=empty,
        gumbel=empty,
        masked=torch.empty(0).long(),
        temperature=torch.empty(0),
    )
    assert [r.shape for r in results] == [(0, 10), (0, 10)]
