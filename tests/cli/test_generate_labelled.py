"""`pyengine generate` and `info` of models that read no text: classes, and from nothing."""

import json

import numpy as np
import pytest
import tiny
from PIL import Image

from pyengine import metadata
from pyengine.cli import main


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny.write_ddpm(tmp_path / "flat", flat=True)
    tiny.write_ddpm(tmp_path / "classes", unet={"num_class_embeds": 10})
    tiny.write_dit(tmp_path / "dit", names={"3": "white shark"})
    return tmp_path


def test_pictures_and_their_settings(place, capsys):
    assert main(["generate", "-m", "flat", "--steps", "3", "--seed", "3", "-n", "2"]) == 0
    for model in ("classes", "dit"):
        picture = f"{model}.png"
        call = ["generate", "-m", model, "--class-label", "3", "--steps", "3", "--seed", "5"]
        assert main([*call, "-o", picture]) == 0
        settings = metadata.read(picture)
        assert (settings.class_labels, settings.steps, settings.model) == (3, 3, model)
        assert settings.guidance_scale == (4.0 if model == "dit" else 1.0)
        assert main(["generate", "-m", model, "--from", picture, "-o", "again.png"]) == 0
        pictures = [np.asarray(Image.open(name)) for name in (picture, "again.png")]
        assert np.array_equal(*pictures)
    capsys.readouterr()
    assert main(["generate", "-m", "classes", "--steps", "2"]) != 0
    assert "--class-label: this model draws classes: expected whole" in capsys.readouterr().err
    assert main(["generate", "a cat", "-m", "flat", "--steps", "2"]) != 0
    assert "prompt: this model has no such argument" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["flat", "classes", "dit"])
def test_info(place, capsys, model):
    assert main(["info", model, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["pipeline"] == ("DiTPipeline" if model == "dit" else "DDPMPipeline")
    assert facts["scheduler"]["sampler"] == ("ddim" if model == "dit" else "ddpm")
    assert main(["info", model, "--plan"]) == 0
    shown = capsys.readouterr().out
    assert ("transformer" if model == "dit" else "unet") in shown
    assert "conv2d" in shown
