"""Previews by a linear map of the latents: coarse, of the step that they show."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import pyengine
from pyengine.engine import Engine
from pyengine.errors import NotFiniteError, RequestError
from pyengine.pipelines.linear_preview import LinearPreview


@pytest.fixture(scope="module")
def emoji():
    return pyengine.from_pretrained("emoji")


def coarse(pictures):
    """[N, 3, h, w] of pictures [N, H, W, 3], a pixel for each latent of emoji."""
    return F.avg_pool2d(torch.tensor(pictures).permute(0, 3, 1, 2).double(), 4)


@pytest.mark.parametrize("prompt", ["a red heart", "a green tree", "a rocket"])
def test_they_show_what_the_decoder_would(emoji, prompt):
    """At any step, and no other step's better: they are of that step."""
    steps = list(emoji.steps(prompt, seed=2, num_inference_steps=12))
    exact = [coarse(step.preview("np")) for step in steps]
    quick = [coarse(step.preview("np", quick=True)) for step in steps]
    for k in (3, 7, 11):
        both = torch.stack([exact[k].flatten(), quick[k].flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.85
        errors = [float((other - quick[k]).square().mean()) for other in exact]
        assert abs(int(np.argmin(errors)) - k) <= 2


def test_they_are_the_same_every_time(emoji):
    step = next(iter(emoji.steps(["a red heart", "a tree"], seed=2, num_inference_steps=4)))
    first = step.preview("np", quick=True)
    assert first.shape == (2, 64, 64, 3)
    assert 0 <= first.min() <= first.max() <= 1
    again = LinearPreview.of(emoji, None)
    assert torch.equal(again.map, emoji._linear.map)
    assert LinearPreview.of(emoji, again) is again
    alone = next(iter(emoji.steps("a tree", seed=3, num_inference_steps=4)))
    assert np.array_equal(alone.preview("np", quick=True)[0], first[1])
    assert [picture.size for picture in step.preview(quick=True)] == [(64, 64)] * 2
    with pytest.raises(NotFiniteError, match="latents"):
        again(torch.full((1, 4, 8, 8), float("nan")))


def test_a_tiny_autoencoder_goes_before(opened, monkeypatch):
    """Where somebody has given one: and what has no latents of colours is decoded."""
    pipe, call = opened("sd1")
    step = next(iter(pipe.steps(**call)))
    assert step.preview("np", quick=True).shape == step.preview("np").shape
    monkeypatch.setattr(pipe, "_preview_vae", pipe.vae)
    assert np.array_equal(step.preview("np", quick=True), step.preview("np"))
    tokens, call = opened("janus")
    step = next(iter(tokens.steps(**call)))
    assert np.array_equal(step.preview("np", quick=True), step.preview("np"))


def test_an_engine_shows_them_where_they_are_asked_for(emoji):
    call = {"prompt": "a red heart", "seed": 2, "num_inference_steps": 6}
    steps = list(emoji.steps(**call))
    with Engine(emoji) as engine:
        for quick in (True, False):
            job = engine.submit(**call, previews=1, quick_previews=quick)
            job.result(60)
            shown = job.events.last("preview")
            want = steps[shown.step - 1].preview(quick=quick)
            assert np.array_equal(np.array(shown.images[0]), np.array(want[0]))
        with pytest.raises(RequestError, match="quick_previews: expected True or False"):
            engine.submit(**call, quick_previews=1)
