"""Every small recipe begins with one command and, killed in the middle, goes on with it."""

import json

import numpy as np
import pytest
import small_runs
import torch

from pyengine import cli
from pyengine.cli.training import SMALL
from pyengine.training import loop, small_training

LABELS = ("red heart", "blue heart", "green apple", "rocket")
STEPS = 4


class Killed(BaseException):
    """Nothing that runs after it would run after SIGKILL either."""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A train.npz of four noisy pictures in the styles that recipes are trained on."""
    numbers = np.random.default_rng(0)
    images, captions = [], []
    for number, label in enumerate(LABELS):
        for style in ("fluent-3d", "fluent", "noto"):
            images.append(numbers.integers(0, 256, (64, 64, 3), dtype=np.uint8))
            caption = {"style": style, "label": label, "tags": [label], "hexcode": f"{number:04X}"}
            captions.append(json.dumps(caption))
    folder = tmp_path_factory.mktemp("data")
    np.savez(folder / "train.npz", images=np.stack(images), captions=np.array(captions))
    return folder


@pytest.mark.parametrize("name", SMALL)
def test_a_killed_run_goes_on_with_the_same_bits(name, data, tmp_path, monkeypatch):
    monkeypatch.setitem(small_training.train.__kwdefaults__, "save_seconds", -1.0)

    def command(folder):
        call = ["train", name, "--data", str(data), "--out", str(tmp_path / folder)]
        assert cli.main([*call, "--steps", str(STEPS), "--batch", "4"]) == 0
        return torch.load(tmp_path / folder / "model.pt", weights_only=True)

    whole = command("whole")
    before = loop.Log.add

    def killed(self, step, pictures, **values):
        if step == STEPS // 2:
            raise Killed
        before(self, step, pictures, **values)

    with monkeypatch.context() as m:
        m.setattr(loop.Log, "add", killed)
        with pytest.raises(Killed):
            command("killed")
    left = torch.load(tmp_path / "killed" / "model.pt", weights_only=True)
    assert left["step"] == STEPS // 2
    again = command("killed")
    assert whole["step"] == again["step"] == STEPS
    assert small_runs.differences(whole, again) == []
