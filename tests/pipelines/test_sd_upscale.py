"""Stable Diffusion's x4 upscaler: diffusers' pictures, the bits of alone, refusals."""

import json

import diffusers
import numpy as np
import pytest
import tiny
import torch
from pairs import psnr

import pyengine
from pyengine.errors import ConfigError, RequestError

CALL = {"num_inference_steps": 3, "output_type": "np"}
NAME = "StableDiffusionUpscalePipeline"


def write(folder, channels=7, scaling=0.08333, **index):
    unet = {"layers_per_block": 1, "in_channels": channels, "num_class_embeds": 1000}
    folder = tiny.write_sd1(folder, unet=unet, vae={"scaling_factor": scaling})
    noising = diffusers.DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.0001, beta_end=0.02
    )
    noising.save_pretrained(folder / "low_res_scheduler")
    path = folder / "model_index.json"
    named = json.loads(path.read_text())
    del named["requires_safety_checker"]
    named |= {"_class_name": NAME, "low_res_scheduler": ["diffusers", "DDPMScheduler"]}
    named |= {"max_noise_level": 350, "watermarker": [None, None], **index}
    path.write_text(json.dumps(named))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("upscale") / "it")


@pytest.fixture(scope="module")
def own(folder):
    return pyengine.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def theirs(folder):
    pipe = diffusers.StableDiffusionUpscalePipeline.from_pretrained(folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(seed=0, size=(16, 24)):
    return np.random.default_rng(seed).random((*size, 3), dtype=np.float32)


def batch(*pictures):
    return torch.stack([torch.from_numpy(p).permute(2, 0, 1) for p in pictures])


def generator(seed=5):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "call",
    [
        {"negative_prompt": "green"},
        {"guidance_scale": 1.0, "noise_level": 0},
        {"noise_level": 350, "eta": 0.7},
    ],
    ids=["guided", "unguided", "noisy"],
)
def test_pictures_are_those_of_diffusers(own, theirs, call):
    call = {**CALL, **call, "image": batch(picture())}
    got = own("a red heart", generator=generator(), **call).images
    want = theirs("a red heart", generator=generator(), **call).images
    assert got.shape == want.shape
    assert want.std() > 0.02
    assert psnr(want, got) >= 40, f"{psnr(want, got):.1f} dB"


def test_two_prompts_with_one_generator(own, theirs):
    call = {**CALL, "image": batch(picture(), picture(1))}
    got = own(["a red heart", "green"], generator=generator(), **call).images
    want = theirs(["a red heart", "green"], generator=generator(), **call).images
    assert psnr(want, got) >= 40, f"{psnr(want, got):.1f} dB"


def test_a_picture_has_its_bits_alone(own, use_threads):
    prompts, shown = ["a red heart", "green"], [picture(0), picture(1)]
    scales = [4.0, 1.0]
    together = own(prompts, shown, seed=[1, 2], guidance_scale=scales, **CALL).images
    for i in range(2):
        use_threads(1 + i)
        alone = own(prompts[i], shown[i], seed=i + 1, guidance_scale=scales[i], **CALL).images
        assert np.array_equal(alone[0], together[i])


def test_jobs_of_several_noise_levels_share_steps(own):
    call = {**CALL, "guidance_scale": 2.0}
    requests = [
        own.request("a red heart", picture(), seed=1, noise_level=10, **call),
        own.request("green", picture(1), seed=2, noise_level=200, **call),
    ]
    jobs = [job for request in requests for job in own.prepare(request)]
    while any(job.active for job in jobs):
        own.step(jobs)
    first = own("a red heart", picture(), seed=1, noise_level=10, **call).images[0]
    second = own("green", picture(1), seed=2, noise_level=200, **call).images[0]
    assert np.array_equal(own.finish(jobs[0]), first)
    assert np.array_equal(own.finish(jobs[1]), second)
    assert not np.array_equal(
        first, own("a red heart", picture(), seed=1, noise_level=20, **call).images[0]
    )


def test_wrong_arguments_are_refused(own):
    for message, call in {
        f"image: a {NAME} needs one": {},
        "noise_level: expected at most 350": {"image": picture(), "noise_level": 351},
        "noise_level: expected": {"image": picture(), "noise_level": -1},
        "image: expected pictures of one size": {"image": [picture(), picture(size=(8, 8))]},
        "image: expected at least": {"image": picture(size=(1, 8))},
        "latents: expected": {"image": picture(), "latents": torch.zeros(1, 4, 2, 2)},
        "mask_image": {"image": picture(), "mask_image": picture()},
    }.items():
        with pytest.raises(RequestError, match=message):
            own("a heart", **CALL, **call)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"channels": 4}, "in_channels 4, out_channels 4 do not fit"),
        ({"scaling": 0.18215}, "scaling_factor: expected 0.08333"),
        ({"max_noise_level": "x"}, "max_noise_level: expected a whole number"),
    ],
)
def test_folders_that_do_not_fit_are_refused(tmp_path, how, message):
    with pytest.raises(ConfigError, match=message):
        pyengine.from_pretrained(write(tmp_path / "it", **how), device="cpu")


def test_it_is_found_by_its_name_and_saved(own, tmp_path):
    assert type(own) is pyengine.StableDiffusionUpscalePipeline
    assert (own.defaults.num_inference_steps, own.defaults.guidance_scale) == (75, 9.0)
    own.save_pretrained(tmp_path / "saved")
    again = pyengine.from_pretrained(tmp_path / "saved", device="cpu")
    assert again.max_noise_level == 350
    call = {**CALL, "image": picture(), "seed": 3}
    assert np.array_equal(own("a", **call).images, again("a", **call).images)
