"""`pyengine compare`: its sheet, its table, ways to a picture, what it refuses."""

import json
import re
from types import SimpleNamespace

import pytest
from PIL import Image

import pyengine
from pyengine.compare import families, guidance
from pyengine.pipelines.loading import NAMED


def test_a_sheet_a_table_and_the_way_there(run, tmp_path):
    sheet = tmp_path / "sheet.png"
    status, out, err = run(
        "compare",
        "a red heart",
        "-o",
        str(sheet),
        "--families",
        "masked",
        "-n",
        "2",
        "--trajectory",
        "--json",
        "--device",
        "cpu",
    )
    assert status == 0, err
    answer = json.loads(out)
    (row,) = answer["rows"]
    assert (row["family"], row["model"]) == ("masked_tokens", "emoji-masked")
    assert (row["evaluations"], row["parameters"]) == (12, 846_144)
    assert row["seconds"] > 0
    assert [name.rpartition("/")[2] for name in answer["files"]] == [
        "sheet.png",
        "sheet-trajectory.png",
        "sheet-trajectory.webp",
    ]
    width, height = Image.open(sheet).size
    assert height > 2 * 128 > width > 128
    assert Image.open(tmp_path / "sheet-trajectory.png").size[0] > 10 * 128
    # Frames that are the same become one.
    assert 2 <= Image.open(tmp_path / "sheet-trajectory.webp").n_frames <= 10


def test_models_are_chosen_by_their_names():
    assert families.chosen(None) == list(NAMED)
    assert families.chosen(["ar", "emoji-masked", "ar"]) == ["emoji-ar", "emoji-masked"]


def test_figures_are_those_of_the_committed_evaluation(tmp_path, monkeypatch):
    file = tmp_path / "evaluation.json"
    monkeypatch.setattr(families, "EVALUATION", file)
    assert families.figures_of("emoji") == {}
    entry = {"model": {"top1": 0.5, "top5": 1.0, "copies": 0.1}, "sets": {"recall": 0.25}}
    file.write_text(json.dumps({"emoji": entry}))
    assert families.figures_of("emoji") == {"top1": 0.5, "top5": 1.0, "recall": 0.25}
    assert families.figures_of("emoji-ar") == {}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--families", "maskd"], "families: expected some of emoji, .*given 'maskd'"),
        (["--families", ","], "families: expected at least one"),
        (["-o", "sheet.jpg"], "output: expected a .png file, given 'sheet.jpg'"),
        (["--guidance", "-n", "2"], "guidance: expected without"),
        (["--guidance", "-m", "emoji-masked"], "guidance: expected a diffusion model of prompts"),
    ],
)
def test_what_is_refused(run, tmp_path, monkeypatch, options, problem):
    monkeypatch.chdir(tmp_path)
    status, out, err = run("compare", "a red heart", *options)
    assert (status != 0, out) == (True, "")
    assert re.search(problem, err), err


def test_ways_of_guiding_take_what_a_call_takes():
    ways = guidance.ways("a red heart", 5)
    assert [way.name for way in ways] == [
        "no guidance", "classifier-free", "classifier", "CLIP", "no prompt", "classifier alone",
        "CLIP alone",
    ]  # fmt: skip
    for way in ways:
        for scale in way.scales:
            call = way.given(scale)
            assert scale in call.values()
            assert call.get("class_labels") == (5 if "classifier" in call else None)
            assert call.get("clip_prompt") == ("a red heart" if "clip_model" in call else None)
            alone = way.name == "no prompt" or way.name.endswith("alone")
            assert call.get("prompt") == ("" if alone else None)
    without = {way.name for way in guidance.ways("a red heart")}
    assert without == {way.name for way in ways} - {"classifier", "classifier alone"}


def test_the_classifier_is_for_what_emoji_denoises(tmp_path, monkeypatch):
    monkeypatch.setattr(guidance, "ASSETS", tmp_path)
    pipes = [pyengine.from_pretrained(name, device="cpu") for name in ("emoji", "emoji-ddpm")]
    assert not guidance.fits(pipes[0])  # none ships
    (tmp_path / "emoji-classifier").mkdir()
    file = tmp_path / "emoji-classifier" / "config.json"
    file.write_text(json.dumps({"in_channels": 4, "image_size": 16}))
    assert [guidance.fits(pipe) for pipe in pipes] == [True, False]
    file.write_text(json.dumps({"in_channels": 4, "image_size": 64}))
    assert not guidance.fits(pipes[0])


def test_every_way_is_drawn_from_the_same_noise():
    class Pipe:
        source, calls = "pipe", []

        def __call__(self, prompt, guidance_scale=None, clip_model=None, **call):
            self.calls.append({"prompt": prompt, "clip": clip_model, **call})
            return SimpleNamespace(images=[Image.new("RGB", (64, 64))])

    ways = guidance.ways("a red heart", 5)
    rows = guidance.draw(Pipe(), "a red heart", 3, ways)
    assert [len(row) for row in rows] == [len(way.scales) for way in ways]
    assert {call["seed"] for call in Pipe.calls} == {3}
    assert sum(call["prompt"] == "" for call in Pipe.calls) == 9
    assert sum(call["clip"] == "emoji-clip" for call in Pipe.calls) == 8
    assert guidance.sheet_of(rows, ways).size == (128 + 4 * 136, 8 + 7 * 136)
