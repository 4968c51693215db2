"""ImageGPT against transformers' on the same weights."""

import pytest
import tiny
import torch
from parity import LIMIT, idle_parameters, load_pair, relative_l2

from pyengine.errors import RequestError
from pyengine.models import ImageGPT

VARIANTS = {
    "plain": {},
    "gelu": {"activation_function": "gelu", "n_inner": 31},
    "silu": {"activation_function": "silu", "n_inner": 33},
    "swish": {"activation_function": "swish"},
    "hidden_act": {"hidden_act": "gelu"},  # which transformers does not read, either
    "scaled_by_layer": {"scale_attn_by_inverse_layer_idx": True, "n_layer": 3},
    "unscaled": {"scale_attn_weights": False},
    "upcast": {"reorder_and_upcast_attn": True, "layer_norm_epsilon": 1e-2},
    "one_head": {"n_head": 1, "n_embd": 7, "n_layer": 1, "vocab_size": 3},
}


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagegpt")
    return load_pair(tiny.make_image_gpt(**VARIANTS[request.param]), ImageGPT, folder)


def tokens(n: int, length: int, vocab: int, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocab - 1, (n, length), generator=generator)
    ids[:, 0] = vocab - 1
    return ids


@pytest.mark.parametrize(("n", "length"), [(1, 1), (2, 24), (3, 13)])
@torch.no_grad()
def test_forward(pair, n, length):
    theirs, ours = pair
    ids = tokens(n, length, ours.config.vocab_size)
    want = theirs(ids).logits
    got = ours(ids)
    assert relative_l2(got, want) < LIMIT
    assert (got - want).abs().max() < 1e-4


@pytest.mark.parametrize("first", [1, 7, 23])
@torch.no_grad()
def test_the_cache_changes_nothing(pair, first):
    theirs, ours = pair
    ids = tokens(3, 24, ours.config.vocab_size)
    want = theirs(ids).logits
    cache = ours.cache(3, 24)
    assert relative_l2(ours.next_logits(ids[:, :first], cache), want[:, first - 1]) < LIMIT
    for i in range(first, 24):
        assert relative_l2(ours.next_logits(ids[:, i : i + 1], cache), want[:, i]) < LIMIT
        if i == 15:  # a row that leaves does not disturb the others
            cache.seat([0, 2], [16, 16])
            ids, want = ids[[0, 2]], want[[0, 2]]


@torch.no_grad()
def test_every_parameter_matters(tmp_path):
    _, ours = load_pair(tiny.make_image_gpt(), ImageGPT, tmp_path)
    ids = torch.arange(34).view(2, 17)[:, :17] % 17
    longer = tokens(1, 24, 17)
    assert idle_parameters(ours, lambda: (ours(ids), ours(longer))) == []


def test_wrong_arguments(pair):
    _, ours = pair
    vocab = ours.config.vocab_size
    for ids, message in (
        (torch.zeros(3, dtype=torch.long), r"input_ids: expected integers \[N, L\]"),
        (torch.zeros(1, 3), "input_ids: expected integers .* torch.float32"),
        (torch.zeros(1, 25, dtype=torch.long), "at most n_positions 24 tokens, got 25"),
        (torch.full((1, 2), vocab), f"expected 0 to {vocab - 1}, got {vocab} to"),
        (torch.full((1, 2), -1), f"expected 0 to {vocab - 1}, got -1 to"),
    ):
        with pytest.raises(RequestError, match=message):
            ours(ids)
    cache = ours.cache(1, 30)
    ours.next_logits(torch.zeros(1, 20, dtype=torch.long), cache)
    with pytest.raises(RequestError, match="at most n_positions 24 tokens, got 25"):
        ours.next_logits(torch.zeros(1, 5, dtype=torch.long), cache)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(dtype, tmp_path):
    theirs, ours = load_pair(tiny.make_image_gpt(), ImageGPT, tmp_path, dtype=dtype)
    ids = tokens(2, 20, 17)
    want = theirs(ids).logits
    halved = theirs.to(dtype)(ids).logits.float()
    got = ours(ids)
    assert got.dtype == ours.dtype == dtype
    assert relative_l2(got.float(), want) < 1.5 * relative_l2(halved, want)
