"""A LoRA trains, goes on to the same weights, and becomes a file that both libraries read."""

import json
import re
import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("peft")

import pyengine
from pyengine.cli import main
from pyengine.errors import CheckpointError, RequestError
from pyengine.training import dataset, evaluate, export, loop, lora, lora_export


def quiet(line):
    pass


@pytest.fixture(scope="module")
def model(run, pictures, tmp_path_factory):
    """The tiny run's model as a folder."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    return export.export(run=run, to=folder, data=pictures, draw_samples=False)


@pytest.fixture
def train(model, pictures, tmp_path):
    def call(out="run", **changed):
        options = {"style": "round", "data": pictures, "model": model, "steps": 6, "batch": 4}
        options |= {"rank": 2, "text_encoder": True, "echo": quiet, "log_every": 2}
        return lora.train(out=tmp_path / out, **options | changed)

    return call


@pytest.fixture(scope="module")
def folder(model, pictures, tmp_path_factory):
    """The folder of a LoRA."""
    place = tmp_path_factory.mktemp("lora")
    run = lora.train(
        style="round",
        data=pictures,
        model=model,
        out=place / "run",
        steps=3,
        batch=4,
        rank=2,
        alpha=4,
        text_encoder=True,
        echo=quiet,
    )
    return lora_export.export(run=run, to=place / "rounded", data=pictures)


def tensors(run):
    return torch.load(run / lora.CHECKPOINT, weights_only=True)


def test_a_run_that_was_stopped_is_the_same_run(train, tmp_path, monkeypatch):
    whole = tensors(train("whole"))
    seen = []

    def killed(self, step, pictures, **values):
        seen.append(step)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(loop.Log, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            train("stopped", save_seconds=0.0)
    assert tensors(tmp_path / "stopped")["step"] == 2
    again = tensors(train("stopped"))
    assert whole["step"] == again["step"] == 6
    for a, b in zip(whole["average"], again["average"], strict=True):
        assert torch.equal(a, b)
    for part in ("unet", "text_encoder"):
        for name, value in whole["model"][part].items():
            assert torch.equal(value, again["model"][part][name]), name


def test_the_models_own_weights_stay(model, train, pictures):
    settings = lora.recipe.load_settings(train(steps=2), lora.LoraSettings, {})
    run, _ = lora.prepare(model / "none", model, settings, pictures, "cpu")
    before = {n: p.clone() for n, p in run.networks.unet.named_parameters() if ".lora_" not in n}
    lora.course.train(run, _, 2)
    for name, value in run.networks.unet.named_parameters():
        if ".lora_" not in name:
            assert torch.equal(value, before[name]), name
    changed = [n for n, p in run.networks.added["unet"].items() if ".lora_B." in n and p.any()]
    assert changed


def test_the_loss_of_a_batch_falls(model, train, pictures):
    settings = lora.recipe.load_settings(train(steps=1), lora.LoraSettings, {})
    run, batches = lora.prepare(model / "none", model, settings, pictures, "cpu")
    networks, batch = run.networks, batches(0)
    optimizer = torch.optim.Adam(networks.parameters, 0.05)
    losses = []
    for _ in range(16):
        loss = networks.loss(*batch)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]


def test_folder(folder, model):
    names = {"rounded.safetensors", "sheet.png", "training.json", "README.md", "NOTICE"}
    assert {p.name for p in folder.iterdir()} == names
    facts = json.loads((folder / "training.json").read_text())
    assert facts["style"] == "round"
    assert facts["base"] == lora.digest(model / lora.UNET_FILE)
    assert facts["evaluation"]["with"]["counted"] == 4
    card = (folder / "README.md").read_text()
    assert "pyengine train lora --style round" in card
    links = re.findall(r"\]\(([^)]+)\)", card)
    assert "sheet.png" in links
    assert all((folder / link).is_file() for link in links if "://" not in link)
    assert "CC-BY 4.0" in (folder / "NOTICE").read_text()


def test_one_command_from_nothing_to_a_sheet(model, pictures, tmp_path, monkeypatch, capsys):
    built = []

    def tidy(value):
        return list(value) if isinstance(value, tuple) else value

    def build(place):  # in place of fetching and drawing some thousands of pictures
        built.append(place)
        place.mkdir(parents=True)
        rows = zip(pictures.styles, pictures.labels, pictures.tags, pictures.hexcodes, strict=True)
        names = ("style", "label", "tags", "hexcode")
        captions = [dict(zip(names, map(tidy, row), strict=True)) for row in rows]
        dataset.save(place / dataset.TRAIN, pictures.images, captions)

    monkeypatch.delenv(dataset.DATA_VARIABLE, raising=False)
    monkeypatch.setattr("pyengine.training.data.build", build)
    monkeypatch.setattr("pyengine.training.data.STYLES", tuple(set(pictures.styles)))
    given = [
        "train",
        "lora",
        "--style",
        "round",
        "--model",
        str(model),
        "--rank",
        "2",
        "--batch",
        "4",
        "--out",
        str(tmp_path / "run"),
        "--export",
        str(tmp_path / "sheet"),
    ]
    assert main([*given, "--steps", "2"]) == 0
    assert built == [tmp_path / "run" / "data"]
    assert (tmp_path / "sheet" / "sheet.png").is_file()
    first = tensors(tmp_path / "run")
    assert main([*given, "--steps", "2"]) == 0  # is done: nothing is built or trained again
    assert len(built) == 1
    for name, tensor in first["model"]["unet"].items():
        assert torch.equal(tensors(tmp_path / "run")["model"]["unet"][name], tensor), name


def test_pyengine_and_diffusers_draw_the_same_with_it(folder, model, tmp_path):
    from diffusers import StableDiffusionPipeline

    # Weights of a few steps change too little to show a scale that was forgotten.
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "rounded")
    folder = tmp_path / "rounded"
    file = folder / "rounded.safetensors"
    save_file({n: v * 64 if ".lora_B." in n else v for n, v in load_file(file).items()}, file)
    how = {"num_inference_steps": 3, "guidance_scale": 2.0, "output_type": "np"}
    pipe = pyengine.from_pretrained(model)
    assert pipe.load_lora(folder) == "rounded"
    given = pipe("a red thing", lora={"rounded": 1.0}, seed=3, **how).images[0]
    plain = pipe("a red thing", seed=3, **how).images[0]
    other = StableDiffusionPipeline.from_pretrained(model)
    other.set_progress_bar_config(disable=True)
    other.load_lora_weights(folder, weight_name=file.name)
    generator = torch.Generator().manual_seed(3)
    expected = other("a red thing", generator=generator, **how).images[0]
    assert np.abs(given - expected).max() < 0.01
    assert np.abs(given - plain).max() > 0.02


def test_alpha_is_in_the_file(folder, tmp_path):
    from safetensors.torch import load_file

    run = folder.parent / "run"
    state, settings = tensors(run), lora.recipe.load_settings(run, lora.LoraSettings, {})
    lora_export.write(tmp_path / "a.safetensors", state, settings)
    written = load_file(tmp_path / "a.safetensors")
    names = [f"{part}.{name}" for part, own in state["model"].items() for name in own]
    for name, value in zip(names, state["average"], strict=True):
        expected = value * (2 if ".lora_B." in name else 1)
        assert torch.equal(written[name], expected.half()), name


def test_pictures_nearer_to_a_style(pictures):
    flat, round_ = (pictures.select(None, {style}) for style in ("flat", "round"))
    for images, share in ((flat.images, 0.0), (round_.images, 1.0)):
        found = evaluate.style_share(images, flat.labels, pictures, "round", ["flat"])
        assert found["share"] == share
        assert found["counted"] == 4
    with pytest.raises(RequestError, match="style: expected pictures of the labels"):
        evaluate.style_share(flat.images, flat.labels, pictures, "square", ["flat"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"style": "square"}, "labels: expected some of the data's labels"),
        ({"rank": 0}, "rank: expected a positive number"),
        ({"model": "/nowhere"}, "model: expected a folder with model_index.json"),
        ({"labels": ["unknown"]}, "labels: expected some of the data's labels"),
    ],
)
def test_bad_arguments(change, message, train):
    with pytest.raises(RequestError, match=message):
        train(**change)


def test_a_run_of_other_settings_is_refused(train):
    train(steps=1)
    with pytest.raises(CheckpointError, match="rank: expected 3, given 2"):
        train(steps=1, rank=3)


def test_models_of_other_predictions_are_refused(train, model, tmp_path):
    other = shutil.copytree(model, tmp_path / "other")
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace("v_prediction", "epsilon"))
    with pytest.raises(RequestError, match="model: expected one of v_prediction, given 'epsilon'"):
        train(model=other)


def test_what_is_wrong_is_said_before_the_pictures_are_built(monkeypatch, tmp_path, capsys):
    """The style, the model and missing packages, by the one command from nothing."""
    from pyengine.training import data

    def built(*args, **options):
        raise AssertionError("it builds")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(dataset.DATA_VARIABLE, raising=False)
    monkeypatch.setattr(data, "build", built)
    command = ["train", "lora", "--out", "run", "--style"]
    assert main([*command, "fluent-flatt"]) == 2
    assert "style: expected one of noto, " in capsys.readouterr().err
    assert main([*command, "fluent-flat", "--model", "nothing"]) == 2
    assert "model: expected a folder with model_index.json" in capsys.readouterr().err
    monkeypatch.setattr(lora.importlib.util, "find_spec", lambda name: None)
    assert main([*command, "fluent-flat"]) != 0
    assert "training needs the package diffusers: pip install" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
