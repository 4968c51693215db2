"""The recipe of masked: it trains, resumes, becomes a folder that draws and refuses."""

import json

import numpy as np
import pytest
import small_runs
import torch

import pyengine
from pyengine.errors import ConfigError, RequestError
from pyengine.training.masked import RECIPE, objective
from pyengine.training.masked.settings import MaskedSettings

SHAPE = {"width": 24, "inner": 32, "layers": 1, "heads": 3, "embedding": 12}


@pytest.fixture(scope="module")
def settings(pictures):
    return small_runs.settings_of(RECIPE, pictures, **SHAPE)


@pytest.fixture(scope="module")
def model(pictures, settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked")
    run = small_runs.train(RECIPE, pictures, folder / "run", 20, settings)
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert records[-1]["loss"] < records[0]["loss"]
    return small_runs.export(RECIPE, pictures, run, folder / "model")


def test_a_run_goes_on_with_the_same_bits(pictures, settings, tmp_path):
    small_runs.same_after_a_stop(RECIPE, pictures, tmp_path, settings)


def test_the_folder_draws(model, pictures):
    assert {"NOTICE", "README.md", "training.json"} <= {path.name for path in model.iterdir()}
    assert "cross entropy of the masked tokens" in (model / "README.md").read_text()
    pipe = small_runs.assert_draws(model, pictures, (8, 3, 16, 16))
    out = pipe("a red thing", seed=1, num_inference_steps=3, guidance_scale=1.0)
    assert (out.report.sampler, out.report.evaluations) == ("masked", 3)
    steps = list(pipe.steps("a red thing", seed=1, num_inference_steps=3))
    assert len(steps) == 3
    assert steps[-1].preview()[0].size == (16, 16)
    white = torch.ones(3, 16, 16)
    changed = pipe("a red thing", seed=1, image=white, strength=0.5, output_type="pt").images
    assert changed.shape == (1, 3, 16, 16)


def test_what_is_refused(model, tmp_path):
    pipe = pyengine.from_pretrained(model, device="cpu")
    for call, text in (
        ({"height": 32}, "height: expected 16"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"latents": torch.full((1, 2, 2), 1025)}, "latents"),
        ({"micro_conditioning_aesthetic_score": 6.0}, "micro_conditioning_aesthetic_score"),
    ):
        with pytest.raises(RequestError, match=text):
            pipe("x", **call)
    config = json.loads((model / "transformer" / "config.json").read_text())
    for change, text in (
        ({"text_encoder": "../elsewhere"}, "text_encoder"),
        ({"vqvae": "emoji"}, "vqvae"),
        ({"codebook_size": 512}, "codebook_size 512, but num_vq_embeddings of emoji-ar is 1024"),
    ):
        folder = tmp_path / text[:8]
        (folder / "transformer").mkdir(parents=True)
        for name in ("model_index.json", "transformer/model.safetensors"):
            (folder / name).write_bytes((model / name).read_bytes())
        (folder / "transformer" / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ConfigError, match=text):
            pyengine.from_pretrained(folder)


def test_masks_and_errors_have_their_shares():
    ids = np.arange(4000 * 16).reshape(4000, 16) % 50
    masked = objective.mask(ids, 50, np.random.default_rng(0)) == 50
    assert masked.any(axis=1).all()
    # The mean of cos(pi r / 2) is 2 / pi; rounding up adds half a token of 16.
    assert masked.mean() == pytest.approx(2 / np.pi + 0.5 / 16, abs=0.01)
    settings = MaskedSettings(codes=50, corrupted=0.2)
    wrong = objective.corrupt(ids, settings, np.random.default_rng(0)) != ids
    assert wrong.mean() == pytest.approx(0.2 * 49 / 50, abs=0.01)
