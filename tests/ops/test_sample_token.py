"""What sample_token does beyond the promises: its distribution, and transformers' definitions."""

import pytest
import torch
from instruction_sets import ISAS

from pyengine import ops
from pyengine.errors import RequestError
from pyengine.ops import SAMPLING_COLUMNS, reference, sampling_settings
from pyengine.ops._core import core


def test_the_kernels_columns_are_the_specifications():
    assert len(SAMPLING_COLUMNS) == core().SAMPLING_COLUMNS


def _processed(scores, settings):
    """transformers' processors in the order of its generate."""
    from transformers.generation import logits_process as warp

    _, temperature, top_k, top_p, min_p = settings
    chain = [warp.TemperatureLogitsWarper(temperature)]
    chain += [warp.TopKLogitsWarper(int(top_k))] if top_k else []
    chain += [warp.TopPLogitsWarper(top_p)] if top_p < 1 else []
    chain += [warp.MinPLogitsWarper(min_p)] if min_p else []
    for processor in chain:
        scores = processor(None, scores)
    return scores


@pytest.mark.parametrize(
    "row",
    [
        (1.0, 0.7, 0, 1.0, 0.0), (1.0, 1.0, 10, 1.0, 0.0), (1.0, 1.5, 0, 0.8, 0.0),
        (1.0, 1.0, 0, 1.0, 0.1), (3.0, 0.9, 30, 0.9, 0.02), (1.0, 1.0, 1, 1.0, 0.0),
        (1.0, 1.0, 500, 0.05, 0.0), (0.0, 1.0, 5000, 0.999, 0.5),
    ],
)  # fmt: skip
def test_draws_as_transformers_would(row):
    """The same number gives the token at which transformers' probabilities sum to it."""
    torch.manual_seed(1)
    n, size = 200, 500
    u, c = 2 * torch.randn(2, n, size)
    u[:, 3], c[:, 3] = -torch.inf, -torch.inf
    uniform = torch.rand(n, dtype=torch.float64)
    settings = torch.tensor([row]).repeat(n, 1)
    got = ops.sample_token(torch.cat([u, c]), uniform, settings)
    scores = torch.where(u == -torch.inf, -torch.inf, u + row[0] * (c - u))
    sums = _processed(scores.double(), row).softmax(dim=-1).cumsum(dim=-1)
    sums = sums / sums[:, -1:]
    want = torch.searchsorted(sums, uniform[:, None], right=True)[:, 0]
    # float32 weights may move the border between two tokens, which a few numbers come near.
    near = (sums - uniform[:, None]).abs().amin(dim=-1) < 1e-6
    assert near.sum() <= 3
    assert torch.equal(got[~near], want[~near])


@pytest.mark.parametrize("isa", ISAS)
def test_the_distribution_is_exact(isa, use_isa):
    """Pearson's chi-square over 200,000 draws, with every limit in play."""
    use_isa(isa)
    torch.manual_seed(2)
    size, draws = 40, 200_000
    logits = 1.5 * torch.randn(1, size)
    logits[0, 5] = -torch.inf
    row = (1.0, 0.8, 25, 0.95, 0.01)
    expected = _processed(logits.double(), row).softmax(dim=-1)[0] * draws
    uniform = torch.rand(draws, dtype=torch.float64)
    tokens = ops.sample_token(logits.expand(draws, -1), uniform, torch.tensor([row] * draws))
    counts = torch.bincount(tokens, minlength=size).double()
    kept = expected > 0
    assert counts[~kept].sum() == 0
    assert 5 < kept.sum() < 25
    statistic = ((counts - expected)[kept].square() / expected[kept]).sum().item()
    freedom = int(kept.sum()) - 1
    # Its mean is `freedom`, its deviation sqrt(2 freedom): five of those are one in a million.
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5
    fewer = ((counts * 1.05 - expected)[kept].square() / expected[kept]).sum().item()
    assert fewer > freedom + 5 * (2 * freedom) ** 0.5, "the test could not fail"


def test_one_number_walks_through_the_tokens():
    """Weights 1, 2, 3, 4: borders at 0.1, 0.3 and 0.6."""
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0]]).log()
    uniform = torch.tensor(
        [0.0, 0.09, 0.11, 0.29, 0.31, 0.59, 0.61, 1 - 2**-53], dtype=torch.float64
    )
    tokens = ops.sample_token(logits.expand(8, -1), uniform, sampling_settings(8))
    assert tokens.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_temperature_zero_takes_the_lowest_of_the_largest():
    logits = torch.tensor([[1.0, 3.0, 2.0, 3.0], [-5.0, -torch.inf, -5.0, -7.0]])
    settings = sampling_settings(2, temperature=0.0, top_k=3, top_p=0.5)
    assert ops.sample_token(logits, torch.rand(2), settings).tolist() == [1, 0]
    large = torch.zeros(1, 5000)
    large[0, 4321:] = 2.0
    assert ops.sample_token(large, torch.rand(1), settings[:1]).item() == 4321


def test_guidance_is_from_the_unconditional_to_the_conditional():
    u, c = torch.tensor([[0.0, 1.0, 0.0]]), torch.tensor([[0.5, 1.0, 0.0]])
    greedy = {"temperature": 0.0}
    for guidance, want in ((1.0, 1), (3.0, 0), (0.0, 1)):
        settings = sampling_settings(1, guidance=guidance, **greedy)
        assert ops.sample_token(torch.cat([u, c]), torch.zeros(1), settings).item() == want


def test_ties_at_the_limits():
    """All equal to the k-th are kept; of those equal at top-p's border the lowest tokens."""
    logits = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0]])
    uniform = torch.linspace(0, 0.999, 200, dtype=torch.float64)

    def seen(**more):
        tokens = ops.sample_token(logits.expand(200, -1), uniform, sampling_settings(200, **more))
        assert torch.equal(
            tokens,
            reference.sample_token(logits.expand(200, -1), uniform, sampling_settings(200, **more)),
        )
        return set(tokens.tolist())

    assert seen(top_k=2) == {0, 1, 2, 3}
    weights = logits[0].exp() / logits[0].exp().sum()
    assert seen(top_p=float(weights[0] + 1.5 * weights[1])) == {0, 1, 2}
    assert seen(top_p=0.0) == {0}
    assert seen(min_p=1.0) == {0}
    assert seen(top_k=2, top_p=0.75) == {0, 1, 2}


@pytest.mark.parametrize("isa", ISAS)
def test_a_masked_token_is_never_drawn(isa, use_isa):
    use_isa(isa)
    torch.manual_seed(3)
    logits = torch.randn(2, 2000, 11)
    masked = torch.rand(2, 2000, 11) < 0.5
    masked[:, :, 4] = False
    logits[masked] = -torch.inf
    uniform = torch.cat([torch.zeros(500), torch.rand(1000), torch.full((500,), 1 - 2**-24)])
    settings = sampling_settings(2000, guidance=2.0, temperature=100.0)
    tokens = ops.sample_token(logits.reshape(4000, 11), uniform, settings)
    assert not masked.any(dim=0).gather(1, tokens[:, None]).any()


def test_rows_are_each_their_own():
    torch.manual_seed(4)
    logits, uniform = torch.randn(6, 300), torch.rand(6)
    settings = torch.cat(
        [sampling_settings(1, temperature=t, top_k=k) for t in (0, 0.5, 2.0) for k in (0, 7)]
    )
    together = ops.sample_token(logits, uniform, settings)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.equal(
        ops.sample_token(logits[order], uniform[order], settings[order]), together[order]
    )
    assert ops.sample_token(logits[:0], uniform[:0], settings[:0]).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("logits", torch.nan, "logits: expected numbers below infinity, got others in row 1"),
        ("logits", torch.inf, "logits: expected numbers below infinity, got others in row 1"),
        ("logits", -torch.inf, "logits: expected a token that is not masked, got others in row 1"),
        ("uniform", 1.0, "uniform: expected numbers from 0 to below 1, got others in row 1"),
        ("uniform", torch.nan, "uniform: expected numbers from 0 to below 1"),
        ("temperature", -0.1, "settings: expected finite guidance and temperature"),
        ("guidance", torch.nan, "settings: expected"),
        ("top_k", -1.0, "settings: expected"),
        ("top_p", 1.5, "settings: expected"),
        ("min_p", torch.nan, "settings: expected"),
    ],
)
def test_what_cannot_be_drawn_is_refused(dtype, field, value, complaint):
    arguments = {
        "logits": torch.zeros(3, 20, dtype=dtype),
        "uniform": torch.full((3,), 0.5),
        "settings": sampling_settings(3),
    }
    if field in arguments:
        arguments[field][1] = value
    else:
        arguments["settings"][1, SAMPLING_COLUMNS.index(field)] = value
    with pytest.raises(RequestError, match=f"sample_token: {complaint}"):
        ops.sample_token(**arguments)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"logits": torch.ones(3, 5)}, r"logits: expected shape \[2, \*\], got \[3, 5\]"),
        ({"logits": torch.ones(2, 0)}, "logits: expected from 1 to"),
        ({"uniform": torch.ones(2, 1)}, r"uniform: expected shape \[N\], got \[2, 1\]"),
        ({"settings": torch.ones(2, 4)}, r"settings: expected shape \[2, 5\], got \[2, 4\]"),
        ({"settings": torch.ones(2, 5).int()}, "settings: expected a floating-point dtype"),
    ],
)
def test_refusals(change, complaint):
    arguments = {
        "logits": torch.ones(2, 5),
        "uniform": torch.zeros(2),
        "settings": sampling_settings(2),
    }
    with pytest.raises(RequestError, match=f"sample_token: {complaint}"):
        ops.sample_token(**arguments | change)
