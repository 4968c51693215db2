"""The recipes of ddpm, cascade and prior: they train, resume, become folders that draw, and the
engine's networks are the trained ones.
"""

import dataclasses
import json

import pytest
import small_runs
import torch

import pyengine
from pyengine.errors import ConfigError, RequestError
from pyengine.models import PatchTransformer, PatchTransformerConfig
from pyengine.training import cascade, ddpm, prior
from pyengine.training.patches import PatchNetwork

SHAPE = {"width": 24, "layers": 2, "heads": 3, "inner": 40}
OWN = {
    "ddpm": {"patch": 4},
    "cascade": {"patches": 4},
    "prior": {"size": 64, "prior_layers": 1, "prior_heads": 1},
}
RECIPES = {recipe.RECIPE.name: recipe.RECIPE for recipe in (ddpm, cascade, prior)}
NAMES = sorted(RECIPES)


@pytest.fixture(scope="module", params=NAMES)
def recipe(request):
    return RECIPES[request.param]


@pytest.fixture(scope="module")
def shown(recipe, pictures):
    """Of the prior's autoencoder and CLIP, which ship, 64x64."""
    if recipe.name != "prior":
        return pictures
    large = pictures.images.repeat(4, axis=1).repeat(4, axis=2)
    return dataclasses.replace(pictures, images=large)


@pytest.fixture(scope="module")
def settings(recipe, shown):
    return small_runs.settings_of(recipe, shown, **SHAPE | OWN[recipe.name])


@pytest.fixture(scope="module")
def run(recipe, shown, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp(recipe.name) / "run"
    return small_runs.train(recipe, shown, folder, 40, settings)


@pytest.fixture(scope="module")
def model(recipe, shown, run, tmp_path_factory):
    to = tmp_path_factory.mktemp("exported") / "model"
    return small_runs.export(recipe, shown, run, to)


def test_a_run_goes_on_with_the_same_bits(recipe, shown, settings, tmp_path):
    small_runs.same_after_a_stop(recipe, shown, tmp_path, settings)


def test_the_loss_falls(run):
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert records[-1]["loss"] < 0.8 * records[0]["loss"]


def test_the_folder_draws_the_same_bits_alone_in_a_batch_and_on_other_threads(
    model, pictures, settings
):
    side = settings.model.size
    pipe = small_runs.assert_draws(model, pictures, (8, 3, side, side))
    unguided = pipe("a red thing", seed=1, guidance_scale=1.0, output_type="pt").images
    mixed = pipe(["a red thing"] * 2, seed=[1, 1], guidance_scale=[1.0, 3.0], output_type="pt")
    assert torch.equal(mixed.images[0], unguided[0])
    assert not torch.equal(mixed.images[1], unguided[0])


def test_evaluations_and_previews(model, recipe):
    pipe = pyengine.from_pretrained(model, device="cpu")
    seen = []

    def look(pipe, step, timestep, tensors):
        seen.append(tuple(tensors["latents"].shape))
        return {}

    further = {"cascade": "super_res_num_inference_steps", "prior": "prior_num_inference_steps"}
    more = {further[recipe.name]: 2} if recipe.name in further else {}
    call = {"num_inference_steps": 3, "seed": 1, **more}
    result = pipe("x", callback_on_step_end=look, **call)
    wanted = {
        "ddpm": [(1, 3, 16, 16)] * 3,
        "cascade": [(1, 3, 8, 8)] * 3 + [(1, 3, 16, 16)] * 2,
        "prior": [(1, 128)] * 2 + [(1, 4, 16, 16)] * 3,
    }[recipe.name]
    side = 64 if recipe.name == "prior" else 16
    assert seen == wanted
    assert (result.report.evaluations, result.images[0].size) == (len(wanted), (side, side))


@pytest.mark.parametrize(("side", "patch", "beside", "vector"), [(12, 4, 0, 7), (10, 5, 3, 9)])
def test_the_engines_network_is_the_trained_one(side, patch, beside, vector):
    """To 1e-5 of the largest number, in odd widths too."""
    config = PatchTransformerConfig(
        sample_size=side,
        patch_size=patch,
        in_channels=3 + beside,
        width=22,
        heads=2,
        layers=2,
        inner=17,
        vector_size=vector,
        layout=5,
    )
    torch.manual_seed(0)
    trained = PatchNetwork(config).eval()
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    trained.learn_statistics(3 * torch.randn(9, vector) + 1)
    own = PatchTransformer.from_config(config)
    own.load_state_dict(trained.state_dict(), assign=True)
    own.pack()
    sample = torch.randn(3, 3 + beside, side, side)
    times, vectors = torch.tensor([0.0, 17.0, 999.0]), torch.randn(3, vector)
    with torch.no_grad():
        want = trained(sample, times, vectors)
    got = own(sample, times, vectors).sample
    assert got.shape == want.shape == (3, 3, side, side)
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_what_is_refused(model, recipe, tmp_path):
    pipe = pyengine.from_pretrained(model, device="cpu")
    for call, text in (
        ({}, "prompt: expected a text"),
        ({"prompt": "x", "height": 32}, "height: expected (16|64)"),
        ({"prompt": "x", "guidance_scale": -1.0}, "guidance_scale"),
        ({"prompt": "x", "num_inference_steps": 0}, "num_inference_steps"),
        ({"prompt": "x", "negative_prompt": ["a", "b", "c"]}, "negative_prompt"),
        ({"prompt": "x", "strength": 0.5}, "strength"),
    ):
        with pytest.raises(RequestError, match=text):
            pipe(**call)
    part = {"ddpm": "network", "cascade": "super_res", "prior": "decoder"}[recipe.name]
    config = json.loads((model / part / "config.json").read_text())
    for number, (change, text) in enumerate(
        (
            ({"text_encoder": "../elsewhere"}, "text_encoder"),
            ({"vector_size": 64}, "vector_size: expected 12"),
            ({"in_channels": 7}, "in_channels"),
            ({"patch_size": 5}, "patch_size 5"),
        )
    ):
        folder = tmp_path / str(number)
        for file in model.rglob("*.*"):
            to = folder / file.relative_to(model)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(file.read_bytes())
        (folder / part / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ConfigError, match=text):
            pyengine.from_pretrained(folder)


def test_a_priors_autoencoder_is_one_that_ships(model, recipe, tmp_path):
    if recipe.name != "prior":
        pytest.skip("only of the prior")
    index = json.loads((model / "model_index.json").read_text())
    for number, name in enumerate(("../emoji", "emoji-clip", 5, None)):
        folder = tmp_path / str(number)
        for file in model.rglob("*.*"):
            to = folder / file.relative_to(model)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(file.read_bytes())
        (folder / "model_index.json").write_text(json.dumps({**index, "autoencoder": name}))
        with pytest.raises(ConfigError, match="autoencoder: expected emoji"):
            pyengine.from_pretrained(folder)
