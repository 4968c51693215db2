"""The recipe of pixels: its palette, a run that resumes, its folder, what is refused."""

import json

import numpy as np
import pytest
import small_runs
import torch

import pyengine
from pyengine.errors import ConfigError, RequestError
from pyengine.training.pixels import RECIPE, palette

SHAPE = {"width": 24, "inner": 32, "layers": 1, "heads": 3, "colours": 7}


@pytest.fixture(scope="module")
def settings(pictures):
    return small_runs.settings_of(RECIPE, pictures, **SHAPE)


@pytest.fixture(scope="module")
def model(pictures, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pixels")
    run = small_runs.train(RECIPE, pictures, folder / "run", 20, settings)
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert records[-1]["loss"] < records[0]["loss"]
    return small_runs.export(RECIPE, pictures, run, folder / "model")


def test_a_run_goes_on_with_the_same_bits(pictures, settings, tmp_path):
    small_runs.same_after_a_stop(RECIPE, pictures, tmp_path, settings)


def test_the_folder_draws(model, pictures):
    assert {"NOTICE", "README.md", "training.json"} <= {path.name for path in model.iterdir()}
    pipe = small_runs.assert_draws(model, pictures, (8, 3, 16, 16))
    out = pipe("a red thing", seed=1, output_type="pt")
    assert out.report.evaluations == 16
    blocks = out.images.unfold(2, 4, 4).unfold(3, 4, 4).flatten(4)
    assert (blocks == blocks[..., :1]).all()  # 4x4 pixels of one colour
    # Its upper half, read back, is continued by what follows it.
    again = pipe("a red thing", seed=1, prefix=out.images[0, :, :8], output_type="pt").images
    assert torch.equal(again[:, :, :8], out.images[:, :, :8])
    for number, step in enumerate(pipe.steps("a red thing", seed=1)):
        assert int((step.latents >= 0).sum()) == number + 1


def test_jacobi_decoding_draws_the_same_pixels(model):
    pipe = pyengine.from_pretrained(model, device="cpu")
    one = pipe("a red thing", seed=1, output_type="latent").images
    two = pipe("a red thing", seed=1, decoding="jacobi", output_type="latent").images
    assert torch.equal(one, two)


def test_what_is_refused(model, tmp_path):
    pipe = pyengine.from_pretrained(model, device="cpu")
    for call, text in (
        ({"height": 32}, "height: expected 16"),
        ({"num_inference_steps": 3}, "num_inference_steps"),
        ({"prefix": [7]}, "prefix"),
    ):
        with pytest.raises(RequestError, match=text):
            pipe("x", **call)
    config = json.loads((model / "transformer" / "config.json").read_text())
    for change, text in (
        ({"text_encoder": "elsewhere"}, "text_encoder"),
        ({"encoder_hidden_size": 64}, "encoder_hidden_size 64"),
    ):
        folder = tmp_path / text[:8]
        (folder / "transformer").mkdir(parents=True)
        for name in ("model_index.json", "transformer/model.safetensors"):
            (folder / name).write_bytes((model / name).read_bytes())
        (folder / "transformer" / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ConfigError, match=text):
            pyengine.from_pretrained(folder)


def test_a_palette_finds_the_colours_that_are_there():
    numbers = np.random.default_rng(0)
    colours = np.array([[255, 255, 255], [200, 10, 10], [10, 10, 220], [0, 120, 60]])
    places = numbers.choice(4, (5, 8, 8), p=[0.7, 0.1, 0.1, 0.1])
    pixels = colours[places].astype(np.float64)
    found = palette.learn(pixels, 4, numbers)
    assert found[0].tolist() == [255, 255, 255]
    assert sorted(found.tolist()) == sorted(colours.tolist())
    assert np.array_equal(found[palette.quantise(pixels, found)].reshape(pixels.shape), pixels)
    small = palette.shrink(np.full((1, 8, 8, 3), 7, np.uint8), 2)
    assert small.shape == (1, 2, 2, 3)
    assert (small == 7).all()
