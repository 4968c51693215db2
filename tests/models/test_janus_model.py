"""Janus against transformers' on the same weights: its Llama, its heads, its VQGAN."""

import pytest
import tiny
import torch
from parity import LIMIT, idle_parameters, load_pair, noise, relative_l2

from pyengine.errors import RequestError
from pyengine.models import Janus

VARIANTS = {
    "grouped": {},
    "every_head": {"text": {"num_key_value_heads": 4, "rms_norm_eps": 1e-3}},
    "one_key": {"text": {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True}},
    "wide_heads": {"text": {"head_dim": 10, "num_attention_heads": 3, "num_key_value_heads": 3}},
    "other_theta": {
        "text": {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
        "vq": {"channel_multiplier": [2, 1, 3], "num_res_blocks": 2, "num_hidden_layers": 3},
    },
    "one_level": {"vq": {"channel_multiplier": [1], "embed_dim": 1}, "side": 2},
}


@pytest.fixture(scope="module", params=VARIANTS)
def pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("janus")
    return load_pair(tiny.make_janus(**VARIANTS[request.param]), Janus, folder)


def draw(count, *shape, seed=1):
    return torch.randint(0, count, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def reference(theirs, ids, tokens):
    """transformers' logits after text ids [N, L] and picture tokens [N, n], without a cache."""
    x = theirs.get_input_embeddings()(ids)
    if tokens is not None:
        x = torch.cat([x, theirs.prepare_embeddings_for_image_generation(tokens)], dim=1)
    hidden = theirs.model.language_model(inputs_embeds=x).last_hidden_state[:, -1]
    return theirs.model.generation_head(hidden)


def test_logits(pair):
    theirs, ours = pair
    ids, tokens = draw(600, 3, 11), draw(30, 3, 9)
    cache = ours.cache(3, 20)
    got, want = ours.read_text(ids, cache), reference(theirs, ids, None)
    assert relative_l2(got, want) < LIMIT
    for i in range(9):
        got = ours.read_tokens(tokens[:, i : i + 1], cache)
        want = reference(theirs, ids, tokens[:, : i + 1])
        assert (got - want).abs().max() < 1e-4
        assert relative_l2(got, want) < LIMIT
    cache = ours.cache(3, 20)
    ours.read_text(ids, cache)
    assert relative_l2(ours.read_tokens(tokens, cache), want) < LIMIT  # all at once


@torch.no_grad()
def test_pictures_of_tokens(pair):
    theirs, ours = pair
    side = ours.config.side
    tokens = draw(30, 2, side * side)
    got = ours.vq.decode_tokens(tokens.view(2, side, side))
    want = theirs.decode_image_tokens(tokens).permute(0, 3, 1, 2)
    assert relative_l2(got, want) < LIMIT


@torch.no_grad()
def test_tokens_of_pictures(pair):
    theirs, ours = pair
    factor = ours.vq.config.downscale
    x = noise(2, 3, 6 * factor, 5 * factor)
    got = ours.vq.encode_tokens(x)
    assert got.shape == (2, 6, 5)
    out = theirs.model.vqmodel.encode(x)
    z = theirs.model.vqmodel.quant_conv(out.last_hidden_state).permute(0, 2, 3, 1).flatten(0, 2)
    distances = torch.cdist(z.double(), theirs.model.vqmodel.quantize.embedding.weight.double())
    best, second = distances.topk(2, largest=False).values.unbind(1)
    clear = (second - best) > 1e-4 * best
    assert clear.sum() > 0.9 * len(clear)
    assert torch.equal(got.flatten()[clear], out.image_tokens.flatten()[clear])


def test_every_parameter_matters(tmp_path):
    theirs = tiny.make_janus(vocab_size=40, vq={"num_embeddings": 12})
    _, ours = load_pair(theirs, Janus, tmp_path)
    ids, tokens = torch.arange(40)[None], torch.arange(12)[None]
    x = noise(1, 3, 12, 10)

    def run():
        ours.pack()
        cache = ours.cache(1, 60)
        ours.read_text(ids, cache)
        logits = ours.read_tokens(tokens, cache)
        h = ours.vq.quant_conv(ours.vq.encoder(x.permute(0, 2, 3, 1).contiguous()))
        return logits, ours.vq.decode_tokens(tokens.view(1, 3, 4)), h

    assert idle_parameters(ours, run) == []


def test_what_reads_pictures_is_not_loaded(pair):
    _, ours = pair
    names = ours.state_dict().keys()
    assert not [n for n in names if "vision_model" in n or n.startswith("lm_head")]


def test_wrong_arguments(pair):
    _, ours = pair
    cache = ours.cache(2, 90)
    for call, ids, message in (
        (ours.read_text, draw(600, 2, 3) + 600, "input_ids: expected 0 to 599, got"),
        (ours.read_text, draw(600, 6), r"input_ids: expected integers \[N, L\]"),
        (ours.read_text, draw(600, 2, 81), "at most max_position_embeddings 80 tokens, got 81"),
        (ours.read_tokens, draw(30, 2, 3) - 30, "tokens: expected 0 to 29, got -"),
        (ours.read_tokens, torch.zeros(2, 3), "tokens: expected integers .* torch.float32"),
    ):
        with pytest.raises(RequestError, match=message):
            call(ids, cache)
    factor = ours.vq.config.downscale
    with pytest.raises(
        RequestError, match=f"x: {factor - 1}x4 pixels, expected at least {factor}x"
    ):
        ours.vq.encode_tokens(noise(1, 3, factor - 1, 4))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(dtype, tmp_path):
    theirs, ours = load_pair(tiny.make_janus(), Janus, tmp_path, dtype=dtype)
    ids, tokens = draw(600, 2, 9), draw(30, 2, 4)
    want = reference(theirs, ids, tokens)
    halved = reference(theirs.to(dtype), ids, tokens).float()
    cache = ours.cache(2, 20)
    ours.read_text(ids, cache)
    got = ours.read_tokens(tokens, cache)
    assert got.dtype == ours.dtype == dtype
    assert relative_l2(got.float(), want) < 1.5 * relative_l2(halved, want)
