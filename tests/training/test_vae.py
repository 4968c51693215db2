"""The recipe of the VAE: it trains, resumes, becomes a folder that draws, encodes and interpolates,
and the engine's networks are its torch networks.
"""

import json

import numpy as np
import pytest
import small_runs
import torch
from PIL import Image

import pyengine
from pyengine.errors import ConfigError, RequestError
from pyengine.models import ConditionalVAE
from pyengine.training import vae
from pyengine.training.generator import Generator

SHAPE = {
    "channels": (16, 8), "patch": 2, "condition": 16, "latent_channels": 3, "encoder": (8, 12),
    "told": 9,
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(pictures):
    return small_runs.settings_of(vae.RECIPE, pictures, **SHAPE)


@pytest.fixture(scope="module")
def model(pictures, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    run = small_runs.train(vae.RECIPE, pictures, folder / "run", 60, settings)
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert records[-1]["mse"] < 0.8 * records[0]["mse"]
    return small_runs.export(vae.RECIPE, pictures, run, folder / "model")


def test_a_run_goes_on_with_the_same_bits(pictures, settings, tmp_path):
    small_runs.same_after_a_stop(vae.RECIPE, pictures, tmp_path, settings)


def test_the_divergence_is_that_of_two_normals():
    """Against torch.distributions, in float64."""
    mean, logvar = torch.randn(2, 5, 7, dtype=torch.float64)
    q = torch.distributions.Normal(mean, (logvar / 2).exp())
    p = torch.distributions.Normal(torch.zeros(()).double(), torch.ones(()).double())
    want = torch.distributions.kl_divergence(q, p)
    assert torch.allclose(vae.divergence(mean, logvar), want, rtol=1e-12)


def test_it_draws_encodes_and_interpolates(model, pictures):
    pipe = small_runs.assert_draws(model, pictures, (8, 3, 16, 16))
    images = [Image.fromarray(image) for image in pictures.images[:3]]
    prompts = [f"a {label}" for label in pictures.labels[:3]]
    latents = pipe.encode(images, prompts)
    assert latents.shape == (3, 3)
    assert torch.equal(pipe.encode(images[1], prompts[1]), latents[1:2])
    assert torch.equal(pipe.encode(images[:2], prompts[0])[0], latents[0])
    assert not torch.equal(latents[0], latents[1])
    ends = pipe([prompts[0]] * 2, latents=latents[:2], output_type="pt").images
    line = pipe.interpolate(prompts[0], latents[0], latents[1], 4, output_type="pt").images
    assert torch.equal(line[0], ends[0])
    assert (line[3] - ends[1]).abs().max() < 1e-5
    assert not torch.equal(line[1], line[0])


@pytest.mark.parametrize(("channels", "patch"), [((8,), 4), ((24, 16, 9), 2), ((7, 5), 3)])
def test_the_engines_networks_are_the_trained_ones(channels, patch):
    """To 1e-5 of the largest number, in odd widths too."""
    settings = vae.VAESettings(
        channels=channels,
        encoder=channels[::-1],
        told=13,
        condition=11,
        latent_channels=5,
        patch=patch,
    )
    torch.manual_seed(0)
    trained = {"decoder": Generator(settings, 20), "encoder": vae.Encoder(settings, 20)}
    state = {}
    for name, network in trained.items():
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        state |= {f"{name}.{key}": value for key, value in network.state_dict().items()}
    own = ConditionalVAE.from_config(settings.config(20))
    own.load_state_dict(state, assign=True)
    own.pack()
    text, latents = torch.randn(3, 20), torch.randn(3, 5)
    side = own.config.sample_size
    images = torch.rand(3, 3, side, side) * 2 - 1
    got, want = own(text, latents), trained["decoder"](text, latents)
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()
    for got, want in zip(own.encode(text, images), trained["encoder"](text, images), strict=True):
        assert got.shape == want.shape == (3, 5)
        assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_what_is_refused(model):
    pipe = pyengine.from_pretrained(model, device="cpu")
    image = Image.fromarray(np.full((20, 30, 3), 200, np.uint8))
    assert pipe.encode(image, "x").shape == (1, 3), "resized"
    for images, prompt, text in (
        ("x.png", "x", "images"),
        ([image, image, image], ["x", "y"], "prompt: expected one text, or as many as pictures: 3"),
        ([image], 3, "prompt"),
        (torch.full((1, 3, 16, 16), float("nan")), "x", "images"),
    ):
        with pytest.raises(RequestError, match=text):
            pipe.encode(images, prompt)
    with pytest.raises(RequestError, match=r"start: expected shape \[3\]"):
        pipe.interpolate("x", torch.zeros(4), torch.zeros(3))
    with pytest.raises(RequestError, match="count: expected"):
        pipe.interpolate("x", torch.zeros(3), torch.zeros(3), 1)
    with pytest.raises(ConfigError, match="encoder_channels: expected 2 sizes"):
        ConditionalVAE.from_config(
            {"block_out_channels": [8, 8], "encoder_channels": [8], "latent_channels": 3}
        )
    with pytest.raises(ConfigError, match="latent_channels: expected at least 1"):
        ConditionalVAE.from_config({"latent_channels": 0})
