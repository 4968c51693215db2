"""A run trains, stops, goes on to the same weights, and becomes a folder that diffusers loads."""

import json
import shutil

import numpy as np
import pytest
import torch

from pyengine.errors import CheckpointError, RequestError
from pyengine.training import autoencoder, denoiser, emoji, export, loop, recipe, samples


def quiet(line):
    pass


def test_run_leaves_checkpoints_and_log(run):
    assert {"autoencoder.pt", "denoiser.pt", "tokenizer", "log.jsonl"} <= {
        p.name for p in run.iterdir()
    }
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert {r["stage"] for r in records} == {"autoencoder", "denoiser"}
    assert all(np.isfinite(r["loss"]) for r in records if r["stage"] == "denoiser")


def test_resumed_run_is_the_same_run(run, tmp_path, pictures, settings):
    folder = tmp_path / "run"
    for steps in (2, 6):
        emoji.train(
            data=pictures, out=folder, steps=steps, settings=settings, sample_minutes=0, echo=quiet
        )
    whole, resumed = (torch.load(f / "denoiser.pt", weights_only=True) for f in (run, folder))
    assert whole["step"] == resumed["step"] == 6
    for part in ("text_encoder", "unet"):
        for name, value in whole["model"][part].items():
            assert torch.equal(value, resumed["model"][part][name]), name
    for value, other in zip(whole["average"], resumed["average"], strict=True):
        assert torch.equal(value, other)


def test_settings_are_kept_with_the_run(run, tmp_path, settings):
    assert emoji.load_settings(run) == settings
    with pytest.raises(RequestError, match=r"expected a folder with settings\.json"):
        emoji.load_settings(tmp_path)
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(RequestError, match=r"settings\.json: expected the settings of a run"):
        emoji.load_settings(tmp_path)


def test_changes_on_the_way_come_to_the_card(run, tmp_path, pictures, settings):
    folder = shutil.copytree(run, tmp_path / "run")
    for rate in (settings.denoiser.rate, 1e-4, 1e-4):
        emoji.train(
            data=pictures,
            out=folder,
            steps=6,
            rate=rate,
            settings=settings,
            sample_minutes=0,
            echo=quiet,
        )
    lines = [f"step 6: rate from {settings.denoiser.rate} to 0.0001"]
    assert recipe.load_history(folder) == lines
    assert recipe.load_history(run) == []
    export.export(run=folder, to=tmp_path / "model", data=pictures, draw_samples=False)
    assert f"| changed on the way | {lines[0]} |" in (tmp_path / "model" / "README.md").read_text()


def test_pictures_are_counted_over_changes_of_the_batch():
    history = ["step 210: batch from 64 to 32", "step 210: steps from 3000 to 850",
               "step 1,662: batch from 32 to 64"]  # fmt: skip
    assert recipe.pictures_seen(3000, 64, history) == 210 * 64 + 1452 * 32 + 1338 * 64
    assert recipe.pictures_seen(200, 8, []) == 1600


def test_favoured_labels_come_more_often(run, pictures, settings):
    from dataclasses import replace

    from pyengine.training import tokenizer

    model = autoencoder.load(run, settings.autoencoder)
    tokens = tokenizer.load(run / "tokenizer")
    settings = replace(settings, favoured=("red thing",), favour=3)
    _, batches = emoji.prepare(run, settings, pictures, model, tokens, "cpu")
    assert [batches.pictures.labels.count(f"{name} thing") for name in ("red", "blue")] == [6, 2]
    assert len(batches.latents) == 12


def test_more_steps_lower_the_loss(tmp_path, run, pictures, settings):
    folder = shutil.copytree(run, tmp_path / "run")
    emoji.train(
        data=pictures,
        out=folder,
        steps=126,
        settings=settings,
        sample_minutes=0,
        log_every=40,
        echo=quiet,
    )
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = [r["loss"] for r in records if r["stage"] == "denoiser"]
    assert losses[-1] < 0.9 * losses[0]


def test_export_is_a_folder_that_diffusers_draws_with(run, tmp_path, pictures, settings):
    from diffusers import StableDiffusionPipeline

    target = tmp_path / "model"
    target.mkdir()
    (target / "stale").write_text("of an older export")
    export.export(run=run, to=target, data=pictures, draw_samples=False)
    assert not (target / "stale").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]
    assert (target / "concepts.txt").read_text().splitlines() == list(settings.labels)
    assert "CC-BY 4.0" in (target / "NOTICE").read_text()
    assert json.loads((target / "pyengine.json").read_text())["num_inference_steps"] == 20
    assert "](samples.png)" in (target / "README.md").read_text()
    index = json.loads((target / "model_index.json").read_text())
    assert index["safety_checker"] == index["feature_extractor"] == [None, None]
    pipe = StableDiffusionPipeline.from_pretrained(target)
    pipe.set_progress_bar_config(disable=True)
    draw = samples.generator(pipe, steps=2, batch=2)
    images = draw(["a red thing", "a blue thing", ""], [1, 2, 3])
    assert images.shape == (3, 16, 16, 3)
    assert images.dtype == np.uint8
    alone = draw(["a blue thing"], [2])
    assert np.abs(alone[0].astype(int) - images[1]).max() <= 1


def test_exported_weights_begin_a_new_run(run, tmp_path, pictures, settings):
    export.export(
        run=run, to=tmp_path / "model", data=pictures, settings=settings, draw_samples=False
    )
    folder = emoji.train(
        data=pictures,
        out=tmp_path / "again",
        steps=0,
        settings=settings,
        init_from=tmp_path / "model",
        sample_minutes=0,
        echo=quiet,
    )
    old, new = (torch.load(f / "denoiser.pt", weights_only=True) for f in (run, folder))
    for value, other in zip(old["average"], new["average"], strict=True):
        assert torch.allclose(value, other, atol=1e-3)
    old, new = (autoencoder.load(f, settings.autoencoder) for f in (run, folder))
    for value, other in zip(old.parameters(), new.parameters(), strict=True):
        assert torch.allclose(value, other, atol=1e-3)


def test_cooldown_is_a_branch(run, tmp_path, pictures, settings):
    folder = shutil.copytree(run, tmp_path / "run")
    before = (folder / "denoiser.pt").read_bytes()
    cooled = emoji.cool(data=pictures, out=folder, steps=3, settings=settings, echo=quiet)
    assert torch.load(cooled, weights_only=True)["step"] == 9
    assert (folder / "denoiser.pt").read_bytes() == before
    assert export.choose_weights(folder, "auto", "denoiser.pt") == cooled
    assert export.choose_weights(folder, "average", "denoiser.pt").name == "denoiser.pt"


def test_sharpening_keeps_the_encoder(run, tmp_path, pictures, settings):
    folder = shutil.copytree(run, tmp_path / "run")
    first = autoencoder.load(folder, settings.autoencoder)
    emoji.sharpen(data=pictures, out=folder, steps=3, settings=settings, echo=quiet)
    second = autoencoder.load(folder, settings.autoencoder)
    changed = {
        n for n, v in first.state_dict().items() if not torch.equal(v, second.state_dict()[n])
    }
    assert changed
    assert all(name.startswith(("decoder.", "post_quant_conv.")) for name in changed)


def test_grid_of_samples(run, tmp_path, pictures, settings):
    from PIL import Image

    from pyengine.training import tokenizer

    tokens = tokenizer.load(run / "tokenizer")
    model = autoencoder.load(run, settings.autoencoder)
    state, _ = emoji.prepare(run, settings, pictures, model, tokens, "cpu")
    before = [p.clone() for p in state.networks.parameters]
    emoji.draw_grid(tmp_path / "grid.png", state, model, tokens, ["a red thing"] * 3)
    assert Image.open(tmp_path / "grid.png").size == (8 * 20 + 4, 24)
    assert all(torch.equal(a, b) for a, b in zip(before, state.networks.parameters, strict=True))


def test_each_pass_sees_every_picture_once(pictures, settings):
    batches = denoiser.Batches(pictures, None, None, settings.denoiser, 3, "cpu")
    rows = np.concatenate([batches.rows(step) for step in range(4)])
    assert sorted(rows[:8]) == sorted(rows[8:]) == list(range(8))
    assert not np.array_equal(rows[:8], rows[8:])


def test_rate_warms_up_stays_and_descends():
    rates = [loop.learning_rate(step, 1.0, 4, 20, 5) for step in range(21)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:16] == [1.0] * 12
    assert rates[16:] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, "batch: expected a positive number, given 0"),
        ({"rate": -1.0}, "rate: expected a positive number"),
        ({"data": "/nowhere"}, "data: expected an existing folder"),
        ({"labels": ["unknown thing"]}, "labels: expected some of the data's labels"),
        ({"init_from": "/nowhere"}, "init_from: expected a model folder"),
    ],
)
def test_bad_arguments(change, message, tmp_path, pictures, settings):
    arguments = {"data": pictures, "out": tmp_path / "run", "settings": settings, "echo": quiet}
    with pytest.raises(RequestError, match=message):
        emoji.train(**(arguments | change))


def test_no_data_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("PYENGINE_DATA", raising=False)
    with pytest.raises(RequestError, match="PYENGINE_DATA"):
        emoji.train(out=tmp_path)


def test_foreign_checkpoints_are_refused(run, tmp_path, settings):
    (tmp_path / "denoiser.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="readable checkpoint"):
        denoiser.start(tmp_path / "denoiser.pt", settings.denoiser, 1, "cpu")
    with pytest.raises(CheckpointError, match="channels: expected"):
        loop.load_checkpoint(run / "denoiser.pt", {"channels": [1, 2]})
    with pytest.raises(RequestError, match="weights: expected"):
        export.choose_weights(run, "best", "denoiser.pt")
    with pytest.raises(RequestError, match=r"expected a folder with denoiser\.pt"):
        export.choose_weights(tmp_path / "none", "average", "denoiser.pt")
