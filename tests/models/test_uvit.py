"""UVit2DModel against diffusers' on the same weights."""

import pytest
import tiny
import torch
from parity import LIMIT, idle_parameters, load_pair, noise, relative_l2

from pyengine.errors import RequestError
from pyengine.models import UVit2DModel

VARIANTS = {
    "plain": {},
    "biased": {"use_bias": True},
    "one_width": {"hidden_size": 16, "num_attention_heads": 4},  # no kv_mapper
    "amused_512": {"downsample": True, "upsample": True, "use_bias": True},
    "sampled_without_bias": {"downsample": True, "upsample": True},
    "bare_norms": {"ln_elementwise_affine": False, "layer_norm_eps": 1e-3},
    "deep": {"num_res_blocks": 3, "num_hidden_layers": 1, "block_num_heads": 1},
}


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uvit")
    return load_pair(tiny.make_uvit(**VARIANTS[request.param]), UVit2DModel, folder)


def inputs(n: int, height: int, width: int, length: int = 7):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 41, (n, height, width), generator=generator)
    sizes = torch.tensor([[64.0, 48, 0, 3, 6]]).expand(n, -1)
    return ids, noise(n, length, 32), noise(n, 32, seed=1), sizes


@pytest.mark.parametrize(("n", "height", "width"), [(1, 6, 6), (3, 2, 10), (2, 4, 2)])
@torch.no_grad()
def test_forward(pair, n, height, width):
    theirs, ours = pair
    given = inputs(n, height, width)
    got = ours(*given)
    assert got.shape == (n, 40, height, width)
    assert relative_l2(got, theirs(*given)) < LIMIT


@pytest.mark.parametrize(("n", "height", "width"), [(1, 1, 1), (2, 5, 3), (1, 7, 1)])
@torch.no_grad()
def test_odd_sizes(n, height, width, tmp_path):
    theirs, ours = load_pair(tiny.make_uvit(), UVit2DModel, tmp_path)
    given = inputs(n, height, width, length=1)
    assert relative_l2(ours(*given), theirs(*given)) < LIMIT


@torch.no_grad()
def test_a_context_serves_every_step(pair):
    _, ours = pair
    ids, *conditions = inputs(2, 4, 6)
    context = ours.encode_context(*conditions)
    for step in range(2):
        changed = (ids + step) % 41
        logits = ours.logits(changed, context)
        assert torch.equal(logits.permute(0, 3, 1, 2), ours(changed, *conditions))


@torch.no_grad()
def test_whatever_stands_beside_it(pair):
    _, ours = pair
    given = inputs(3, 4, 6)
    alone = ours(*(t[1:2] for t in given))
    assert relative_l2(alone, ours(*given)[1:2]) < LIMIT


@pytest.mark.parametrize("name", ["biased", "amused_512"])
def test_every_parameter_matters(name, tmp_path):
    _, ours = load_pair(tiny.make_uvit(**VARIANTS[name]), UVit2DModel, tmp_path)
    ids, *conditions = inputs(1, 6, 8)
    ids = torch.arange(48).view(1, 6, 8) % 44  # every row of the embedding
    assert idle_parameters(ours, lambda: (ours(ids, *conditions),)) == []


def test_wrong_arguments(pair):
    _, ours = pair
    ids, text, pooled, sizes = inputs(2, 4, 4)
    for given, message in (
        ((ids[:1], text, pooled, sizes), r"input_ids: expected integers \[2, h, w\]"),
        ((ids.float(), text, pooled, sizes), "input_ids: expected integers .* torch.float32"),
        ((ids + 4, text, pooled, sizes), "input_ids: expected 0 to 43, got .* to 44"),
        ((ids - 41, text, pooled, sizes), "input_ids: expected 0 to 43, got -"),
        ((ids, text[..., :5], pooled, sizes), r"encoder_hidden_states: expected \[2, L, 32\]"),
        ((ids, text, pooled[:1], sizes), r"pooled_text_emb: expected \[2, 32\]"),
        ((ids, text, pooled, sizes[:, :3]), r"micro_conds: expected \[2, 5\]"),
    ):
        with pytest.raises(RequestError, match=message):
            ours(*given)
    if ours.config.downsample:
        with pytest.raises(RequestError, match=r"expected integers \[2, h, w\] \(even\)"):
            ours(ids[:, :3], text, pooled, sizes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(dtype, tmp_path):
    theirs, ours = load_pair(tiny.make_uvit(), UVit2DModel, tmp_path, dtype=dtype)
    ids, *conditions = inputs(2, 4, 6)
    want = theirs(ids, *conditions)
    halved = theirs.to(dtype)(ids, *(c.to(dtype) for c in conditions)).float()
    got = ours(ids, *conditions)
    assert got.dtype == ours.dtype == dtype
    assert relative_l2(got.float(), want) < 1.5 * relative_l2(halved, want)
