"""unCLIP's projection of texts and embeddings against diffusers' on the same weights."""

import pytest
import torch
import unclip_folders
from parity import LIMIT, idle_parameters, load_pair, noise, relative_l2

from pyengine.errors import ConfigError, RequestError
from pyengine.models import UnCLIPTextProjModel

WIDTH = unclip_folders.WIDTH
CONFIGS = {
    "tiny": {},
    "odd": {"clip_extra_context_tokens": 3, "time_embed_dim": 20, "cross_attention_dim": 15},
}


def inputs(n: int, guided: bool, seed: int = 0) -> dict:
    rows = 2 * n if guided else n
    return {
        "image_embeddings": noise(n, WIDTH, seed=seed),
        "prompt_embeds": noise(rows, WIDTH, seed=seed + 1),
        "text_encoder_hidden_states": noise(rows, 9, WIDTH, seed=seed + 2),
        "do_classifier_free_guidance": guided,
    }


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    theirs = unclip_folders.make_text_proj(**CONFIGS[request.param])
    return load_pair(theirs, UnCLIPTextProjModel, tmp_path_factory.mktemp("text_proj"))


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("guided", [True, False])
@torch.no_grad()
def test_tokens_and_vectors(pair, n, guided):
    theirs, ours = pair
    given = inputs(n, guided)
    got, want = ours(**given), theirs(**given)
    for mine, other in zip(got, want, strict=True):
        assert mine.shape == other.shape
        assert relative_l2(mine, other) < LIMIT
    if not guided:
        last = {k: v[-1:] if isinstance(v, torch.Tensor) else v for k, v in given.items()}
        assert all(torch.equal(a[-1:], b) for a, b in zip(got, ours(**last), strict=True))


def test_every_parameter_matters(pair):
    _, ours = pair
    assert idle_parameters(ours, lambda: ours(**inputs(1, True))) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_embeddings": noise(2, WIDTH + 1)}, r"image_embeddings: expected \[N, 32\]"),
        ({"prompt_embeds": noise(3, WIDTH)}, "prompt_embeds: expected 4 rows, got 3"),
        ({"text_encoder_hidden_states": noise(4, WIDTH)}, r"expected \[N, L, 32\]"),
        ({"do_classifier_free_guidance": False}, "prompt_embeds: expected 2 rows, got 4"),
    ],
)
def test_wrong_inputs(pair, change, message):
    with pytest.raises(RequestError, match=message):
        pair[1](**{**inputs(2, True), **change})


@pytest.mark.parametrize(
    "change",
    [
        {"time_embed_dim": 0},
        {"cross_attention_dim": "x"},
        {"clip_extra_context_tokens": 1000},
        {"more": 1},
    ],
)
def test_refused_configs(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        UnCLIPTextProjModel.from_config({**unclip_folders.TEXT_PROJ, **change})
