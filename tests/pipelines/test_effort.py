"""effort="fast": fewer steps, another sampler and deep layers at some steps, where nothing else is
asked for.
"""

import json
import shutil

import pytest
import tiny
import torch

import pyengine
from pyengine.errors import RequestError
from pyengine.pipelines.stable_diffusion.defaults import Defaults, DistilledDefaults
from pyengine.pipelines.stable_diffusion.effort import described

CALL = {"prompt": "two cats", "seed": 7, "height": 64, "width": 64, "output_type": "latent"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_sd1(tmp_path_factory.mktemp("effort") / "sd", unet={"layers_per_block": 1})


@pytest.fixture(scope="module")
def pipe(folder):
    return pyengine.from_pretrained(folder, device="cpu")


def draw(pipe, **call):
    return pipe(**CALL, **call)


def test_what_it_fills_in(pipe):
    """The same picture as of the arguments that the model's defaults name."""
    fast = draw(pipe, effort="fast")
    named = {"num_inference_steps": 20, "scheduler": "dpmpp_2m", "cache_interval": 2}
    assert described(pipe.defaults) == {**named, "cache_branch_id": 0}
    assert torch.equal(fast.images, draw(pipe, **named).images)
    assert (fast.report.sampler, fast.report.steps) == ("dpmpp_2m", 20)


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({"num_inference_steps": 12}, ("dpmpp_2m", 12, 2)),
        ({"num_inference_steps": 9}, ("dpmpp_2m", 9, 1)),
        ({"scheduler": "euler", "num_inference_steps": 3}, ("euler", 3, 1)),
        ({"scheduler": "euler", "cache_interval": 5}, ("euler", 20, 5)),
        ({"cache_interval": 1}, ("dpmpp_2m", 20, 1)),
        ({"guidance_method": "cfg++", "guidance_scale": 0.5, "num_inference_steps": 3,
          "scheduler": "ddim"}, ("ddim", 3, 1)),
        ({"timesteps": [900, 500, 100], "scheduler": "ddpm"}, ("ddpm", None, 1)),
    ],
)  # fmt: skip
def test_what_is_asked_for_stays(pipe, asked, wanted):
    r = pipe.request(**CALL, effort="fast", **asked)
    sampler, steps, interval = wanted
    assert r.scheduler == sampler
    assert steps is None or r.steps == steps
    assert (1 if r.caching is None else r.caching.interval) == interval


def test_cfg_plus_plus_keeps_the_models_sampler(pipe):
    r = pipe.request(**CALL, effort="fast", guidance_method="cfg++", guidance_scale=0.5)
    assert (r.scheduler, r.steps) == (None, 20)


def test_a_checkpoint_says_what_it_is(folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "own")
    own = {"num_inference_steps": 9, "fast_num_inference_steps": 3, "fast_scheduler": "unipc"}
    (place / "pyengine.json").write_text(json.dumps(own))
    pipe = pyengine.from_pretrained(place, device="cpu")
    assert described(pipe.defaults) == {"num_inference_steps": 3, "scheduler": "unipc"}
    want = draw(pipe, num_inference_steps=3, scheduler="unipc").images
    assert torch.equal(draw(pipe, effort="fast").images, want)


def test_a_model_of_few_steps_stays_as_it_is(pipe, monkeypatch):
    monkeypatch.setattr(pipe, "defaults", DistilledDefaults())
    with pytest.warns(UserWarning, match="effort: this model takes 4 steps"):
        fast = draw(pipe, effort="fast")
    assert torch.equal(fast.images, draw(pipe).images)
    assert "effort: this model takes 4 steps" in " ".join(fast.report.warnings)


def test_the_shipped_model_takes_a_third_of_its_steps():
    pipe = pyengine.from_pretrained("emoji", device="cpu")
    assert isinstance(pipe.defaults, Defaults)
    report = pipe("a red heart", seed=1, effort="fast").report
    assert (report.sampler, report.evaluations) == ("dpmpp_2m", 6)
    assert pipe.defaults.num_inference_steps == 20


def test_refusals(pipe):
    with pytest.raises(RequestError, match="effort: expected one of full, fast, given 'slow'"):
        draw(pipe, effort="slow")
