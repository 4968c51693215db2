"""The transformer over pixels against the network that is trained, and in float64."""

import json

import pytest
import torch
from safetensors.torch import save_file

from pyengine.errors import ConfigError, RequestError
from pyengine.models import PixelGPT, PixelGPTConfig


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(the trained network's class with random weights, ours with the same)."""
    pytest.importorskip("transformers")
    network = pytest.importorskip("pyengine.training.pixels.network")
    from pyengine.training.pixels.settings import PixelSettings

    settings = PixelSettings(
        width=48, inner=80, layers=2, heads=3, colours=11, size=12, text_width=20, text_length=5
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        trained = network.PixelGPT(settings).eval()
        for parameter in trained.parameters():
            parameter.data.normal_(std=0.2)
    folder = tmp_path_factory.mktemp("pixels")
    save_file(trained.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(settings.config() | names(11)))
    return trained, PixelGPT.from_pretrained(folder)


def names(colours):
    return {"text_encoder": "emoji", "palette": [[i, 2 * i, 255] for i in range(colours)]}


@pytest.fixture(scope="module")
def given():
    """(pixels [2, 8], hidden [2, 5, 20])."""
    numbers = torch.Generator().manual_seed(5)
    return torch.randint(0, 11, (2, 8), generator=numbers), torch.randn(2, 5, 20, generator=numbers)


def ours_of(model, pixels, hidden, pieces=1):
    """[N, 9, colours]: read in so many pieces."""
    cache = model.cache(len(pixels), 14)
    found = [model.read_text(hidden, cache)[:, None]]
    found += [model.read_pixels(part, cache, every=True) for part in pixels.chunk(pieces, 1)]
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("pieces", [1, 8])
def test_logits_are_those_of_the_trained_network(pair, given, pieces):
    trained, ours = pair
    pixels, hidden = given
    with torch.no_grad():
        expected = trained(pixels, hidden)
    logits = ours_of(ours, pixels, hidden, pieces)
    assert expected.abs().max() > 0.3
    assert (logits - expected).abs().max() < 1e-5


def test_a_row_has_the_same_bits_alone_and_in_a_batch(pair, given):
    _, ours = pair
    pixels, hidden = given
    together = ours_of(ours, pixels, hidden, 8)
    alone = ours_of(ours, pixels[1:], hidden[1:], 8)
    assert torch.equal(alone[0], together[1])


def test_what_is_given_wrong_is_named(pair, given):
    _, ours = pair
    pixels, hidden = given
    with pytest.raises(RequestError, match="hidden: expected"):
        ours.read_text(hidden[:, :4], ours.cache(2, 14))
    cache = ours.cache(2, 14)
    ours.read_text(hidden, cache)
    with pytest.raises(RequestError, match="pixels: expected 0 to 10"):
        ours.read_pixels(pixels + 11, cache)
    with pytest.raises(RequestError, match="max_position_embeddings"):
        ours.read_pixels(torch.cat([pixels, pixels], dim=1), cache)


def test_configs_are_checked():
    good = names(64) | {"vocab_size": 64, "max_position_embeddings": 280}
    PixelGPTConfig.from_dict(good)
    for change, problem in (
        ({"palette": [[0, 0, 0]]}, "palette has 1 colours"),
        ({"palette": [[0, 0, 256]] * 64}, "palette"),
        ({"sample_size": 17}, "make rows of 313"),
        ({"text_encoder": None}, "text_encoder"),
    ):
        with pytest.raises(ConfigError, match=problem):
            PixelGPTConfig.from_dict(good | change)
