"""The recipe of the flow: its determinant is autograd's, the engine's network is the torch network,
what is encoded is drawn again, and it trains, resumes and becomes a folder.
"""

import json
import math

import pytest
import small_runs
import torch
from safetensors.torch import load_file

import pyengine
from pyengine.errors import ConfigError, RequestError
from pyengine.models import Glow
from pyengine.models.conditional import glow
from pyengine.training import dataset, flow, likelihood, texts

SHAPE = {"patch": 2, "steps_of": (2, 1), "hidden": (8, 12), "told": 9, "layout": 3}


def random_pair(size, patch=2, steps_of=(2, 1), hidden=(8, 5)):
    """(torch's flow, the engine's) with the same random weights."""
    shape = {"steps_of": steps_of, "hidden": hidden, "told": 7, "layout": 3}
    settings = flow.FlowSettings(size=size, patch=patch, **shape)
    torch.manual_seed(0)
    trained = flow.Flow(settings, 20)
    for name, parameter in trained.named_parameters():
        if "mix" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    own = Glow.from_config(settings.config(20))
    state = {f"flow.{name}": value.detach() for name, value in trained.state_dict().items()}
    own.load_state_dict(state, assign=True)
    own.pack()
    return trained, own


@pytest.fixture(scope="module")
def settings(pictures):
    return small_runs.settings_of(flow.RECIPE, pictures, **SHAPE)


@pytest.fixture(scope="module")
def model(pictures, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("flow")
    run = small_runs.train(flow.RECIPE, pictures, folder / "run", 40, settings)
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert records[-1]["bits"] < records[0]["bits"] - 0.3
    return small_runs.export(flow.RECIPE, pictures, run, folder / "model")


@pytest.mark.parametrize(("steps_of", "hidden"), [((1,), (5,)), ((2, 1), (6, 3))])
def test_the_determinant_is_autograds(steps_of, hidden):
    trained, own = random_pair(4, 2, steps_of, hidden)
    text, images = torch.randn(2, 20), torch.rand(2, 3, 4, 4) * 2 - 1
    latents, logdet = trained(text, images)
    for row in range(2):
        jacobian = torch.autograd.functional.jacobian(
            lambda x, row=row: trained(text[row : row + 1], x[None])[0][0], images[row]
        ).reshape(48, 48)
        want = torch.linalg.slogdet(jacobian.double())[1]
        assert float(logdet[row].detach()) == pytest.approx(float(want), abs=1e-3)
    with torch.no_grad():
        made, volume = own.flow(text, images)
    assert (made - latents).abs().max() < 1e-4
    assert (volume - logdet).abs().max() < 1e-3


@pytest.mark.parametrize("size", [8, 24])
def test_what_is_encoded_is_drawn_again(size):
    trained, own = random_pair(size)
    text, images = torch.randn(3, 20), torch.rand(3, 3, size, size) * 2 - 1
    latents, logdet = own.encode(text, images)
    want, volume = trained(text, glow.from_pixels(images))
    assert (latents - want).abs().max() <= 1e-5 * want.abs().max()
    assert torch.allclose(logdet, volume.double(), rtol=1e-5)
    assert (own(text, latents) - images).abs().max() < 1e-4
    assert (glow.to_pixels(glow.from_pixels(images)) - images).abs().max() < 1e-6


def test_bits_of_pictures_that_the_flow_makes_normal():
    """Uniform pictures under a uniform density take 8 bits a number."""
    nats = -10 * math.log(2.0)  # density 1/2 a number over -1..1, ten numbers
    assert flow.bits_per_dimension(nats, 10) == pytest.approx(8.0)
    latents = torch.randn(4, 6, dtype=torch.float64)
    want = torch.distributions.Normal(0.0, 1.0).log_prob(latents).sum(dim=1) + 3.0
    assert torch.allclose(flow.log_likelihood(latents, 3.0), want)


def test_noise_fills_a_values_range():
    images = torch.tensor([-1.0, 1.0]).repeat(1, 3, 4, 2)
    spread = flow.spread(images, torch.Generator().manual_seed(1))
    assert spread.min() >= -1
    assert spread.max() <= 1
    assert ((spread - glow.from_pixels(images)).abs() <= 1 / 256 + 1e-6).all()


def test_the_first_batch_sets_the_activation_norms():
    trained, _ = random_pair(8)
    text, images = torch.randn(16, 20), torch.rand(16, 3, 8, 8)
    trained(text, images, begin=True)
    x = torch.nn.functional.pixel_unshuffle(images, 2)
    affine = trained.scales[0][0].affine
    y = (x + affine.shift[:, None, None]) * affine.log_scale.exp()[:, None, None]
    assert y.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert (y.std(dim=(0, 2, 3)) - 1).abs().max() < 0.01


def test_a_run_goes_on_with_the_same_bits(pictures, settings, tmp_path):
    small_runs.same_after_a_stop(flow.RECIPE, pictures, tmp_path, settings)


def test_the_folder_draws_and_encodes(model, pictures):
    pipe = small_runs.assert_draws(model, pictures, (8, 3, 16, 16))
    image = torch.from_numpy(pictures.images[:2]).permute(0, 3, 1, 2).float() / 255
    prompts = [f"a {label}" for label in pictures.labels[:2]]
    latents = pipe.encode(image, prompts)
    again = pipe(prompts, latents=latents, output_type="pt").images
    assert (again - image).abs().max() < 1e-4
    assert torch.equal(pipe.encode(image[1:], prompts[1])[0], latents[1])
    bits = pipe.bits_per_dimension(image, prompts)
    assert bits.shape == (2,)
    assert bits.max() < 8
    hot, cold = (pipe("x", seed=1, temperature=t, output_type="latent").images for t in (1, 0.5))
    assert torch.equal(hot * 0.5, cold)
    default = pipe("x", seed=1, output_type="latent").images
    assert torch.equal(hot * 0.7, default)


def test_bits_are_those_of_the_objective(model, pictures):
    """With noise, of the torch network with the folder's weights; of pictures known and others."""
    pipe = pyengine.from_pretrained(model, device="cpu")
    settings = flow.FlowSettings(size=16, **SHAPE)
    trained = flow.Flow(settings, pipe.text.width)
    state = load_file(model / "flow" / "model.safetensors")
    trained.load_state_dict({k.removeprefix("flow."): v.float() for k, v in state.items()})
    images, prompts = pictures.images[:3], [f"a {label}" for label in pictures.labels[:3]]
    spread = flow.spread(dataset.to_float(images), torch.Generator().manual_seed(5))
    with torch.no_grad():
        latents, logdet = trained(texts.encode(pipe.text, prompts)[1], spread)
    want = flow.bits_per_dimension(flow.log_likelihood(latents, logdet), latents.shape[1])
    found = pipe.bits_per_dimension(list(images), prompts, torch.Generator().manual_seed(5))
    assert torch.allclose(found.float(), want, atol=1e-3)
    known, style = pictures.labels[:2], pictures.styles[0]
    row = likelihood.bits(pipe, pictures, known, style, 5, 0)
    others = {x for x, s in zip(pictures.labels, pictures.styles, strict=True) if s == style}
    assert row["held_out_pictures"] == len(others - set(known))
    assert 0 < row["known"] < 8
    with pytest.raises(RequestError, match="expected held_out pictures"):
        likelihood.bits(pipe, pictures, pictures.labels, style, 5, 0)


def test_what_is_refused(model):
    pipe = pyengine.from_pretrained(model, device="cpu")
    for call, text in (
        ({"temperature": -1.0}, "temperature: expected"),
        ({"latents": torch.zeros(1, 5)}, "latents: expected shape"),
        ({"guidance_scale": 2.0}, "guidance_scale"),
    ):
        with pytest.raises(RequestError, match=text):
            pipe("x", **call)
    for change, text in (
        ({"flow_steps": [1], "hidden_channels": [8, 8]}, "hidden_channels: expected one of each"),
        ({"patch_size": 3}, "patch_size: expected an even"),
        ({"sample_size": 20}, "sample_size: expected a multiple of 16"),
    ):
        with pytest.raises(ConfigError, match=text):
            Glow.from_config(change)
