"""The masked-token transformer against the network that is trained, and in float64."""

import json

import pytest
import torch
from safetensors.torch import save_file

from pyengine.errors import ConfigError, RequestError
from pyengine.models import MaskedTransformer, MaskedTransformerConfig

NAMES = {"text_encoder": "emoji", "vqvae": "emoji-ar"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """(the trained network's class with random weights, ours with the same)."""
    network = pytest.importorskip("pyengine.training.masked.network")
    from pyengine.training.masked.settings import MaskedSettings

    settings = MaskedSettings(
        width=48, inner=80, layers=2, heads=3, embedding=24, codes=50, size=40, text_width=20
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        trained = network.MaskedTransformer(settings).eval()
        for parameter in trained.parameters():
            parameter.data.normal_(std=0.2)
    folder = tmp_path_factory.mktemp("masked")
    save_file(trained.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(settings.config() | NAMES))
    return trained, MaskedTransformer.from_pretrained(folder)


@pytest.fixture(scope="module")
def given():
    """(ids [3, 25] some of them masked, hidden [3, 7, 20], pooled [3, 20])."""
    numbers = torch.Generator().manual_seed(5)
    ids = torch.randint(0, 51, (3, 25), generator=numbers)
    return (
        ids,
        torch.randn(3, 7, 20, generator=numbers),
        torch.randn(3, 20, generator=numbers),
    )


def test_logits_are_those_of_the_trained_network(pair, given):
    trained, ours = pair
    ids, hidden, pooled = given
    with torch.no_grad():
        exact = trained.double()(ids, hidden.double(), pooled.double())
        trained.float()
    logits = ours(ids.view(3, 5, 5), hidden, pooled).flatten(1, 2)
    assert exact.abs().max() > 0.3
    assert (logits - exact).abs().max() < 1e-5


def test_a_row_has_the_same_bits_alone_and_in_a_batch(pair, given):
    _, ours = pair
    ids, hidden, pooled = given[0].view(3, 5, 5), *given[1:]
    together = ours(ids, hidden, pooled)
    for row in range(3):
        alone = ours(*(x[row : row + 1] for x in (ids, hidden, pooled)))
        assert torch.equal(alone[0], together[row])


def test_what_is_given_wrong_is_named(pair, given):
    _, ours = pair
    ids, hidden, pooled = given[0].view(3, 5, 5), *given[1:]
    with pytest.raises(RequestError, match="input_ids: expected 0 to 50"):
        ours(ids + 1, hidden, pooled)
    with pytest.raises(RequestError, match="input_ids: expected integers"):
        ours(ids[:, :4], hidden, pooled)
    with pytest.raises(RequestError, match="pooled: expected"):
        ours(ids, hidden, pooled[:2])


def test_configs_are_checked():
    with pytest.raises(ConfigError, match="num_attention_heads 5"):
        MaskedTransformerConfig.from_dict(NAMES | {"num_attention_heads": 5})
    with pytest.raises(ConfigError, match="vqvae"):
        MaskedTransformerConfig.from_dict({"text_encoder": "emoji"})
