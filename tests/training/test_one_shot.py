"""The recipe of one-shot: it trains, resumes, becomes a folder, and the engine's network is its
torch network.
"""

import json

import numpy as np
import pytest
import small_runs
import torch
from PIL import Image

import pyengine
from pyengine import metadata
from pyengine.cli import main
from pyengine.errors import ConfigError, RequestError
from pyengine.models import TextGenerator
from pyengine.training import one_shot, small_training
from pyengine.training.generator import Generator

SHAPE = {"channels": (16, 8), "patch": 2, "condition": 16, "latent_channels": 3}


@pytest.fixture(scope="module")
def settings(pictures):
    return small_runs.settings_of(one_shot.RECIPE, pictures, **SHAPE)


@pytest.fixture(scope="module")
def run(pictures, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one-shot") / "run"
    return small_runs.train(one_shot.RECIPE, pictures, folder, 40, settings)


@pytest.fixture(scope="module")
def model(pictures, run, tmp_path_factory):
    to = tmp_path_factory.mktemp("exported") / "model"
    return small_runs.export(one_shot.RECIPE, pictures, run, to)


def test_a_run_goes_on_with_the_same_bits(pictures, settings, tmp_path):
    small_runs.same_after_a_stop(one_shot.RECIPE, pictures, tmp_path, settings)


def test_the_loss_falls(run):
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert records[-1]["step"] == 40
    assert records[-1]["loss"] < 0.8 * records[0]["loss"]


def test_the_folder(model, pictures):
    names = {path.name for path in model.iterdir()}
    wanted = {"NOTICE", "README.md", "concepts.txt", "curves.png", "generator", "model_index.json"}
    assert wanted | {"pyengine.json", "samples.png", "training.json"} == names
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "mean squared error" in card
    assert "Not measured yet: `pyengine eval emoji-one-shot`" in card
    assert json.loads((model / "training.json").read_text())["steps"] == 40
    pipe = small_runs.assert_draws(model, pictures, (8, 3, 16, 16))
    result = pipe("a red thing", seed=1)
    assert (result.report.sampler, result.report.evaluations) == ("one pass", 1)


@pytest.mark.parametrize(
    ("latent", "channels", "patch"),
    [(0, (8,), 2), (3, (24, 16, 8), 4), (5, (7, 9), 3), (1, (5,), 1)],
)
def test_the_engines_network_is_the_trained_one(latent, channels, patch):
    """To 1e-5 of the largest number, in odd widths too."""
    settings = one_shot.OneShotSettings(
        channels=channels, condition=11, latent_channels=latent, patch=patch
    )
    torch.manual_seed(0)
    trained = Generator(settings, 20)
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    own = TextGenerator.from_config(settings.config(20))
    state = {f"decoder.{name}": value for name, value in trained.state_dict().items()}
    own.load_state_dict(state, assign=True)
    own.pack()
    text, latents = torch.randn(3, 20), torch.randn(3, latent)
    want = trained(text, latents)
    got = own(text, latents)
    assert got.shape == want.shape == (3, 3, *(own.config.sample_size,) * 2)
    assert (got - want).abs().max() <= 1e-5 * want.abs().max()


def test_the_command_line_draws_and_repeats(model, tmp_path, capsys):
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    told = ["generate", "-m", str(model), "--device", "cpu"]
    assert main([*told, "a red thing", "--seed", "3", "-o", str(first)]) == 0
    saved = metadata.read(first)
    assert (saved.prompt, saved.seed) == ("a red thing", 3)
    assert main([*told, "--from", str(first), "-o", str(second)]) == 0
    one, two = (np.asarray(Image.open(path)) for path in (first, second))
    assert np.array_equal(one, two)
    pipe = pyengine.from_pretrained(model, device="cpu")
    assert np.array_equal(one, np.asarray(pipe("a red thing", seed=3).images[0]))
    capsys.readouterr()
    for name in ("one-shot", "vae", "gan", "flow"):
        assert main(["train", name, "--data", str(tmp_path / "none")]) == 2
        assert "data: expected an existing folder" in capsys.readouterr().err


def test_what_is_refused(model, pictures, tmp_path):
    pipe = pyengine.from_pretrained(model, device="cpu")
    for call, text in (
        ({}, "prompt: expected a text"),
        ({"prompt": "x", "height": 32}, "height: expected 16"),
        ({"prompt": "x", "latents": torch.zeros(1, 4)}, r"latents: expected .*\[1, 3\]"),
        ({"prompt": "x", "num_inference_steps": 5}, "num_inference_steps: this model has no"),
        ({"prompt": "x", "guidance_scale": 3.0}, "guidance_scale"),
    ):
        with pytest.raises(RequestError, match=text):
            pipe(**call)
    config = json.loads((model / "generator" / "config.json").read_text())
    for change, text in (
        ({"text_encoder": "../elsewhere"}, "text_encoder"),
        ({"text_width": 64}, "text_width: expected 128"),
        ({"block_out_channels": []}, "block_out_channels"),
    ):
        folder = tmp_path / text.partition(":")[0]
        (folder / "generator").mkdir(parents=True)
        for name in ("model_index.json", "generator/model.safetensors"):
            (folder / name).write_bytes((model / name).read_bytes())
        (folder / "generator" / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ConfigError, match=text):
            pyengine.from_pretrained(folder)
    for numbers, text in (({"steps": 0}, "steps: expected a positive"), ({"rate": -1.0}, "rate")):
        with pytest.raises(RequestError, match=text):
            small_training.train(one_shot.RECIPE, data=pictures, out=tmp_path / "no", **numbers)
