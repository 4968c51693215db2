"""InstructPix2Pix: diffusers' pictures, guidance by text and picture apart, the bits of alone."""

import diffusers
import numpy as np
import pytest
import tiny
import torch
from pairs import psnr

import pyengine
from pyengine.errors import ConfigError, RequestError

CALL = {"num_inference_steps": 3, "output_type": "np"}
NAME = "StableDiffusionInstructPix2PixPipeline"


def write(folder, channels=8):
    folder = tiny.write_sd1(folder, unet={"layers_per_block": 1, "in_channels": channels})
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace('"StableDiffusionPipeline"', f'"{NAME}"'))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("instruct") / "it")


@pytest.fixture(scope="module")
def own(folder):
    return pyengine.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def theirs(folder):
    pipe = diffusers.StableDiffusionInstructPix2PixPipeline.from_pretrained(
        folder, safety_checker=None
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(seed=0, size=(32, 48)):
    rng = np.random.default_rng(seed)
    return rng.random((*size, 3), dtype=np.float32)


def generator(seed=5):
    return torch.Generator().manual_seed(seed)


CASES = {
    "both": {"negative_prompt": "green"},
    "scales": {"guidance_scale": 3.0, "image_guidance_scale": 2.5},
    "no text guidance": {"guidance_scale": 1.0},
    "no picture guidance": {"image_guidance_scale": 0.5},
    "two of each": {"num_images_per_prompt": 2},
    "noise": {"eta": 0.7},
}


@pytest.mark.parametrize("case", CASES)
def test_pictures_are_those_of_diffusers(own, theirs, case):
    call = {**CALL, **CASES[case], "image": torch.tensor(picture()).permute(2, 0, 1)[None]}
    got = own("a red heart", generator=generator(), **call).images
    want = theirs("a red heart", generator=generator(), **call).images
    assert got.shape == want.shape
    assert psnr(want, got) >= 40, f"{psnr(want, got):.1f} dB"


def test_the_scales_count(own):
    def drawn(**more):
        return own("a red heart", picture(), seed=1, **CALL, **more).images

    plain = drawn()
    assert np.array_equal(plain, drawn(guidance_scale=7.5, image_guidance_scale=1.5))
    assert psnr(plain, drawn(image_guidance_scale=3.0)) < 60
    assert psnr(plain, drawn(guidance_scale=2.0)) < 60
    other = own("a red heart", picture(1), seed=1, **CALL).images
    assert psnr(plain, other) < 60


def test_a_picture_has_its_bits_alone(own):
    prompts, shown = ["a red heart", "green", "blue"], [picture(i) for i in range(3)]
    scales = [4.0, 1.0, 7.5]
    together = own(prompts, shown, seed=[1, 2, 3], guidance_scale=scales, **CALL).images
    for i in range(3):
        alone = own(prompts[i], shown[i], seed=i + 1, guidance_scale=scales[i], **CALL).images
        assert np.array_equal(alone[0], together[i])


def test_jobs_of_several_calls_share_steps(own):
    requests = [
        own.request("a red heart", picture(), seed=1, **CALL),
        own.request("green", picture(1), seed=2, image_guidance_scale=3.0, **CALL),
    ]
    jobs = [job for request in requests for job in own.prepare(request)]
    while any(job.active for job in jobs):
        own.step(jobs)
    first = own("a red heart", picture(), seed=1, **CALL).images[0]
    second = own("green", picture(1), seed=2, image_guidance_scale=3.0, **CALL).images[0]
    assert np.array_equal(own.finish(jobs[0]), first)
    assert np.array_equal(own.finish(jobs[1]), second)


def test_given_noise_and_latents_of_the_picture(own, theirs):
    c = own.vae.config
    noise = torch.randn(
        1, c.latent_channels, 32 // c.downscale, 48 // c.downscale, generator=generator(1)
    )
    pixels = torch.tensor(picture()).permute(2, 0, 1)[None]
    want = theirs("a heart", image=pixels, latents=noise.clone(), **CALL).images
    assert psnr(want, own("a heart", picture(), latents=noise, **CALL).images) >= 40
    shown = theirs.vae.encode(2 * pixels - 1).latent_dist.mode().detach()
    assert psnr(want, own("a heart", shown, latents=noise, **CALL).images) >= 40


def test_wrong_arguments_are_refused(own, folder):
    with pytest.raises(RequestError, match=f"image: a {NAME} needs one"):
        own("a heart", **CALL)
    with pytest.raises(RequestError, match="image_guidance_scale: expected a number from 0"):
        own("a heart", picture(), image_guidance_scale=-1, **CALL)
    with pytest.raises(RequestError, match="latents: expected"):
        own("a heart", picture(), latents=torch.zeros(1, 4, 2, 2), **CALL)
    with pytest.raises(RequestError, match="mask_image"):
        own("a heart", picture(), mask_image=picture(), **CALL)


def test_unets_of_other_channels_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="in_channels 4, out_channels 4 do not fit"):
        pyengine.from_pretrained(write(tmp_path / "it", 4), device="cpu")


def test_it_is_found_by_its_name(folder, own):
    assert type(own) is pyengine.StableDiffusionInstructPix2PixPipeline
    assert own.defaults.num_inference_steps == 100
    found = pyengine.AutoPipelineForImage2Image.from_pretrained(folder, device="cpu")
    assert type(found) is type(own)
