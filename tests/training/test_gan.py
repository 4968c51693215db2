"""The recipe of the GAN: it trains, resumes with both optimisers, and becomes a folder."""

import json

import pytest
import small_runs
import torch

from pyengine.training import gan, small

SHAPE = {
    "channels": (16, 8), "patch": 2, "condition": 16, "latent_channels": 3, "critic": (12, 16),
    "begins": 2, "lazy": 2, "moved": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(pictures):
    return small_runs.settings_of(gan.RECIPE, pictures, **SHAPE)


@pytest.fixture(scope="module")
def networks(pictures, settings):
    data = small.Data(pictures, settings.model, 1)
    return gan.Networks(settings.model, data, "cpu", 1)


def batch(networks, count=5):
    torch.manual_seed(0)
    images = torch.rand(count, 3, 16, 16) * 2 - 1
    vectors = torch.randn(count, networks.text_width)
    return small.Batch(images, vectors, None, None, torch.Generator().manual_seed(3))


def test_a_run_goes_on_with_the_same_bits(pictures, settings, tmp_path):
    small_runs.same_after_a_stop(gan.RECIPE, pictures, tmp_path, settings)


def test_it_becomes_a_folder(pictures, settings, tmp_path):
    run = small_runs.train(gan.RECIPE, pictures, tmp_path / "run", 8, settings)
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert records[0]["real"] == 0, "regression alone"
    assert records[-1]["real"] != 0
    model = small_runs.export(gan.RECIPE, pictures, run, tmp_path / "model")
    assert "R1 of weight 1 every 2 steps" in (model / "README.md").read_text(encoding="utf-8")
    small_runs.assert_draws(model, pictures, (8, 3, 16, 16))


def test_the_penalty_is_the_squared_norm_of_the_gradient(networks):
    """Against differences of the score, in float64."""
    b = batch(networks, 2)
    critic = networks.critic.eval()  # spectral norm's vectors stay as they are
    slope = float(networks.slope(b.vectors, b.images).detach())
    gradient = torch.autograd.functional.jacobian(
        lambda x: critic(b.vectors, x), b.images
    )  # [2, 2, 3, 16, 16], zero off the diagonal
    own = torch.stack([gradient[i, i] for i in range(2)])
    assert gradient[0, 1].abs().max() == 0
    assert slope == pytest.approx(float(own.square().sum() / 2), rel=1e-5)
    critic.train()


def test_the_discriminator_learns_to_tell(networks):
    """On a fixed batch its scores of real pictures rise above those of drawn ones."""
    b, drawn = batch(networks), torch.zeros(5, 3, 16, 16)
    networks.step = 1
    scores = [networks.teach(b, drawn) for _ in range(30)]
    assert float(scores[-1][0] - scores[-1][1]) > float(scores[0][0] - scores[0][1]) + 0.1


def test_pictures_are_shown_mirrored_and_moved(networks):
    b = batch(networks, 40)
    b = small.Batch(torch.full((40, 3, 16, 16), -1.0), None, None, None, b.generator)
    b.images[:, :, 8, 3] = 0.5
    seen = networks.shown(b, b.images.requires_grad_())
    places = {tuple(map(int, (row[0] == 0.5).nonzero()[0])) for row in seen}
    assert len(places) > 10
    assert {y for y, _ in places} <= set(range(6, 11))
    assert {x for _, x in places} <= {*range(1, 6), *range(10, 15)}
    seen.sum().backward()
    assert b.images.grad.max() == 1
