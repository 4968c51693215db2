"""A pipeline whose U-Net is recorded and replayed draws what it draws without."""

import diffusers
import numpy as np
import pytest
import tiny
import torch
from test_cuda_calls import Recorder
from test_recorded_tokens import own

import pyengine
from pyengine.diffusion.evaluator import Evaluator
from pyengine.errors import OutOfMemoryError


@pytest.fixture
def recorded(pair, monkeypatch):
    """use(name): (the pipeline of that checkpoint, its recorder)."""

    def use(name):
        pipe, recorder = pair(name).own, Recorder()
        monkeypatch.setattr(pipe, "_evaluate", Evaluator(pipe.unet, recorder))
        return pipe, recorder

    return use


CALLS = (
    {"prompt": "a red heart", "scheduler": "dpmpp_2m"},
    {"prompt": ["a dog", "the moon"], "scheduler": "euler_ancestral"},
    {"prompt": "a red heart", "guidance_scale": 1.0},
    {"prompt": "a small cat", "scheduler": "unipc"},
    {"prompt": "a small cat", "scheduler": "euler", "num_inference_steps": 4},
    {"prompt": "a small cat", "scheduler": "unipc", "guidance_rescale": 0.5},
)


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_the_same_pictures(pair, recorded, name):
    plain = pair(name).own
    given = {"num_inference_steps": 3, "seed": 5, "output_type": "np"}
    expected = [plain(**given | call) for call in CALLS]
    pipe, recorder = recorded(name)
    for call, want in zip(CALLS, expected, strict=True):
        got = pipe(**given | call)
        assert np.array_equal(got.images, want.images)
        assert got.report.kernels == want.report.kernels
    # One picture, two, one without guidance; the U-Net alone, where its output decides the rest.
    assert recorder.recorded == 4
    assert recorder.replayed == sum(one.report.evaluations for one in expected)


def test_a_prompt_changed_by_the_callback_is_seen(recorded, pair):
    def change(pipe, step, timestep, tensors):
        return {"prompt_embeds": tensors["prompt_embeds"].flip(1)} if step == 0 else {}

    given = {
        "num_inference_steps": 3,
        "seed": 5,
        "output_type": "latent",
        "callback_on_step_end": change,
        "callback_on_step_end_tensor_inputs": ("latents", "prompt_embeds"),
    }
    expected = pair("sd1").own("a cat", **given).images
    pipe, _ = recorded("sd1")
    assert torch.equal(pipe("a cat", **given).images, expected)
    del given["callback_on_step_end"]
    assert not torch.equal(pipe("a cat", **given).images, expected)


def test_after_running_out_of_memory_it_draws_on(recorded, monkeypatch):
    pipe, recorder = recorded("sd1")
    given = {"num_inference_steps": 2, "seed": 5, "output_type": "latent"}
    expected = pipe("a cat", **given).images
    decode = type(pipe.vae).decode

    def too_much(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(type(pipe.vae), "decode", too_much)
    with pytest.raises(OutOfMemoryError, match=r"out of memory; 1 picture of \d+x\d+: fewer"):
        pipe("a cat", num_inference_steps=2)
    assert len(pipe._evaluate.steps) == 0
    monkeypatch.setattr(type(pipe.vae), "decode", decode)
    assert torch.equal(pipe("a cat", **given).images, expected)
    assert recorder.recorded == 2


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_a_recording_reads_nothing_that_may_go(pair, monkeypatch, name):
    pipe, recorder = pair(name).own, Recorder()
    monkeypatch.setattr(pipe, "_evaluate", Evaluator(pipe.unet, own(recorder, pipe.unet)))
    for rescale in (0.0, 0.5):
        pipe("a cat", num_inference_steps=2, seed=5, guidance_rescale=rescale)
    assert recorder.recorded == 2


def test_within_inference_mode_and_without(recorded):
    pipe, _ = recorded("sd1")
    given = {"num_inference_steps": 2, "seed": 5, "output_type": "latent"}
    with torch.inference_mode():
        first = pipe("a cat", **given).images.clone()
    assert torch.equal(pipe("a cat", **given).images, first)


#: Of a network that predicts a variance too: one that the sampler takes, one that it leaves out.
LEARNED = {"variance_type": "learned_range"}
UNPROMPTED = {
    "ddpm": (tiny.write_ddpm, {}, {"scheduler": "heun"}),
    "variance": (
        tiny.write_ddpm,
        {"unet": {"out_channels": 6}, "scheduler": diffusers.DDPMScheduler(**LEARNED)},
        {},
    ),
    "variance left out": (
        tiny.write_ddpm,
        {"unet": {"out_channels": 6, "num_class_embeds": 5}},
        {"class_labels": [1, 4]},
    ),
    "guided": (tiny.write_dit, {}, {"class_labels": [3, 4], "scheduler": "dpmpp_2m"}),
    "unguided": (tiny.write_dit, {}, {"class_labels": 3, "guidance_scale": 1.0}),
}


@pytest.mark.parametrize("name", UNPROMPTED)
def test_networks_that_read_no_text(name, tmp_path, monkeypatch):
    write, made, call = UNPROMPTED[name]
    pipe = pyengine.from_pretrained(write(tmp_path / "model", **made), device="cpu")
    given = {"num_inference_steps": 4, "seed": 5, "output_type": "pt", **call}
    want = pipe(**given)
    recorder = Recorder()
    monkeypatch.setattr(pipe, "_evaluate", Evaluator(pipe.network, recorder))
    assert torch.equal(pipe(**given).images, want.images)
    assert recorder.recorded == 1
    assert recorder.replayed == want.report.evaluations
