"""InstructPix2Pix with SDXL: diffusers' pictures and the bits of alone."""

import diffusers
import numpy as np
import pytest
import tiny
import torch
from test_instruct_pix2pix import CALL, generator, picture, psnr

import pyengine
from pyengine.errors import ConfigError, RequestError

NAME = "StableDiffusionXLInstructPix2PixPipeline"


def write(folder, channels=8):
    folder = tiny.write_sdxl(folder, unet={"in_channels": channels})
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace('"StableDiffusionXLPipeline"', f'"{NAME}"'))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("instruct") / "it")


@pytest.fixture(scope="module")
def own(folder):
    return pyengine.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def theirs(folder):
    pipe = diffusers.StableDiffusionXLInstructPix2PixPipeline.from_pretrained(
        folder, add_watermarker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(
    "call",
    [
        {"negative_prompt": "green", "height": 32, "width": 48},
        {"guidance_scale": 1.0},
        {
            "guidance_scale": 3.0,
            "image_guidance_scale": 2.5,
            "guidance_rescale": 0.6,
            "num_images_per_prompt": 2,
        },
    ],
    ids=["guided", "unguided", "rescaled"],
)
def test_pictures_are_those_of_diffusers(own, theirs, call):
    call = {**CALL, **call, "image": torch.tensor(picture()).permute(2, 0, 1)[None]}
    got = own("a red heart", generator=generator(), **call).images
    want = theirs("a red heart", generator=generator(), **call).images
    assert got.shape == want.shape
    assert want.std() > 0.02
    assert psnr(want, got) >= 40, f"{psnr(want, got):.1f} dB"


def test_a_picture_has_its_bits_alone(own):
    prompts, shown, scales = ["a red heart", "green"], [picture(0), picture(1)], [4.0, 1.0]
    together = own(prompts, image=shown, seed=[1, 2], guidance_scale=scales, **CALL).images
    for i in range(2):
        alone = own(prompts[i], image=shown[i], seed=i + 1, guidance_scale=scales[i], **CALL)
        assert np.array_equal(alone.images[0], together[i])


def test_wrong_arguments_are_refused(own, tmp_path):
    with pytest.raises(RequestError, match=f"image: a {NAME} needs one"):
        own("a heart", **CALL)
    with pytest.raises(RequestError, match="image_guidance_scale: expected a number from 0"):
        own("a heart", image=picture(), image_guidance_scale=-1, **CALL)
    with pytest.raises(ConfigError, match="in_channels 4, out_channels 4 do not fit"):
        pyengine.from_pretrained(write(tmp_path / "it", 4), device="cpu")


def test_it_is_found_by_its_name(own):
    assert type(own) is pyengine.StableDiffusionXLInstructPix2PixPipeline
    assert own.defaults.num_inference_steps == 100
    assert own.defaults.guidance_scale == 5.0
