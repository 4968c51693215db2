"""Requests that must be refused: which argument, what was expected, what was given."""

import math
import re

import numpy as np
import pytest
import torch
from PIL import Image

from pyengine.errors import RequestError, UnavailableError
from pyengine.jobs import checks
from pyengine.pipelines import from_pretrained

NAN, INF = math.nan, math.inf
PICTURE = Image.new("RGB", (64, 64))
GENERATOR = torch.Generator()
TENSOR = torch.zeros(3, 64, 64)
EMBEDS = torch.zeros(1, 77, 32)
MASKED = {"image": PICTURE, "mask_image": Image.new("L", (64, 64), 255)}

#: (arguments over a good call, the argument that the message must begin with)
BAD = [
    ({"prompt": None}, "prompt"),
    ({"prompt": 3}, "prompt"),
    ({"prompt": b"a cat"}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": ["a cat", 4]}, "prompt"),
    ({"prompt": {"a": 1}}, "prompt"),
    ({"prompt": "x" * 100_001}, "prompt"),
    ({"prompt": "a \ud800 cat"}, "prompt"),
    ({"prompt": ["a"] * 1025}, "prompt"),
    ({"negative_prompt": 1}, "negative_prompt"),
    ({"negative_prompt": ["a", "b"]}, "negative_prompt"),
    ({"negative_prompt": "\udfff"}, "negative_prompt"),
    ({"height": 0}, "height"),
    ({"height": -64}, "height"),
    ({"height": 63}, "height"),
    ({"height": 64.0}, "height"),
    ({"height": "64"}, "height"),
    ({"height": True}, "height"),
    ({"height": 1 << 40}, "height"),
    ({"width": 12}, "width"),
    ({"width": NAN}, "width"),
    ({"height": 8192, "width": 8192}, "height, width"),
    ({"num_inference_steps": 0}, "num_inference_steps"),
    ({"num_inference_steps": -1}, "num_inference_steps"),
    ({"num_inference_steps": 2.5}, "num_inference_steps"),
    ({"num_inference_steps": 1001}, "num_inference_steps"),
    ({"num_inference_steps": 10**9}, "num_inference_steps"),
    ({"num_inference_steps": "many"}, "num_inference_steps"),
    ({"guidance_scale": NAN}, "guidance_scale"),
    ({"guidance_scale": INF}, "guidance_scale"),
    ({"guidance_scale": -1}, "guidance_scale"),
    ({"guidance_scale": "7"}, "guidance_scale"),
    ({"guidance_scale": 1e6}, "guidance_scale"),
    ({"guidance_scale": [7.5, 3.0]}, "guidance_scale"),
    ({"guidance_scale": []}, "guidance_scale"),
    ({"guidance_scale": ["7"]}, "guidance_scale"),
    ({"guidance_scale": [[7.5]]}, "guidance_scale"),
    ({"guidance_scale": [NAN]}, "guidance_scale"),
    ({"guidance_rescale": 1.5}, "guidance_rescale"),
    ({"guidance_rescale": NAN}, "guidance_rescale"),
    ({"num_images_per_prompt": 0}, "num_images_per_prompt"),
    ({"num_images_per_prompt": 1.0}, "num_images_per_prompt"),
    ({"num_images_per_prompt": 100_000}, "num_images_per_prompt"),
    ({"num_images_per_prompt": 1000, "height": 512, "width": 512}, "num_images_per_prompt"),
    ({"seed": -1}, "seed"),
    ({"seed": 1.5}, "seed"),
    ({"seed": "1"}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"seed": [1, 2]}, "seed"),
    ({"seed": [None]}, "seed"),
    ({"seed": True}, "seed"),
    ({"seed": 1, "generator": GENERATOR}, "seed"),
    ({"generator": 5}, "generator"),
    ({"generator": [GENERATOR, GENERATOR]}, "generator"),
    ({"generator": [GENERATOR] * 2, "num_images_per_prompt": 2}, "generator"),
    ({"generator": [None]}, "generator"),
    ({"prompt_embeds": EMBEDS}, "prompt_embeds: expected these or prompt"),
    ({"prompt": None, "prompt_embeds": EMBEDS[0]}, "prompt_embeds: expected a float tensor [n"),
    ({"prompt": None, "prompt_embeds": EMBEDS[..., 1:]}, "prompt_embeds: expected a float tensor"),
    ({"prompt": None, "prompt_embeds": EMBEDS.long()}, "prompt_embeds"),
    ({"prompt": None, "prompt_embeds": EMBEDS.tolist()}, "prompt_embeds"),
    ({"prompt": None, "prompt_embeds": EMBEDS[:0]}, "prompt_embeds"),
    ({"prompt": None, "prompt_embeds": EMBEDS * NAN}, "prompt_embeds: expected finite"),
    ({"prompt": None, "negative_prompt_embeds": EMBEDS}, "prompt: expected a text, a list of"),
    ({"negative_prompt_embeds": EMBEDS, "negative_prompt": "x"}, "negative_prompt_embeds"),
    ({"negative_prompt_embeds": EMBEDS[:, :70]}, "negative_prompt_embeds: expected the shape"),
    ({"negative_prompt_embeds": torch.cat([EMBEDS] * 2)}, "negative_prompt_embeds"),
    (
        {"prompt": None, "prompt_embeds": EMBEDS, "negative_prompt_embeds": EMBEDS[:, 1:]},
        "negative_prompt_embeds: expected the shape of prompt_embeds, [1, 77, 32]",
    ),
    ({"timesteps": [999, 500], "sigmas": [14.0, 0.0]}, "timesteps: expected these or sigmas"),
    ({"timesteps": [500, 999]}, "timesteps"),
    ({"timesteps": "999"}, "timesteps"),
    ({"timesteps": b"x", "scheduler": "ddpm"}, "timesteps: expected a list of numbers"),
    ({"timestep_spacing": np.zeros(3)}, "timestep_spacing: expected one of"),
    ({"num_inference_steps": torch.zeros(2, 9)}, "num_inference_steps: expected a whole number"),
    ({"upscaler": "\ud800"}, "upscaler: '\\ud800' is no path"),
    ({"classifier": "a\0b"}, "classifier: 'a\\x00b' is no path"),
    ({"clip_model": "\ud800"}, "clip_model: '\\ud800' is no path"),
    ({"padding_mask_crop": 8}, "padding_mask_crop: expected image and mask_image"),
    ({"padding_mask_crop": 8, **MASKED, "output_type": "np"}, "padding_mask_crop: output_type"),
    ({"padding_mask_crop": -1, **MASKED}, "padding_mask_crop: expected"),
    ({"padding_mask_crop": 1.5, **MASKED}, "padding_mask_crop: expected"),
    ({"padding_mask_crop": 8, **MASKED, "mask_image": PICTURE}, "padding_mask_crop: mask_image"),
    (
        {"padding_mask_crop": 8, **MASKED, "mask_image": Image.new("L", (64, 32), 255)},
        "padding_mask_crop: mask_image: expected the size of image",
    ),
    (
        {"padding_mask_crop": 8, **MASKED, "image": np.zeros((64, 64, 3), np.uint8)},
        "padding_mask_crop: image: expected a PIL",
    ),
    ({"masked_image_latents": torch.zeros(1, 4, 8, 8)}, "masked_image_latents: expected mask_im"),
    ({**MASKED, "masked_image_latents": torch.zeros(1, 4, 8, 9)}, "masked_image_latents"),
    ({**MASKED, "masked_image_latents": 3}, "masked_image_latents"),
    ({"denoising_end": 0.5}, "denoising_end: this model has no such argument"),
    ({"latents": [1]}, "latents"),
    ({"latents": torch.zeros(1, 4, 8, 9)}, "latents"),
    ({"latents": torch.zeros(2, 4, 8, 8)}, "latents"),
    ({"latents": torch.zeros(1, 4, 8, 8, dtype=torch.int64)}, "latents"),
    ({"latents": torch.full((1, 4, 8, 8), NAN)}, "latents"),
    ({"latents": torch.zeros(1, 4, 8, 8), "image": PICTURE}, "latents"),
    ({"scheduler": "eular"}, "scheduler"),
    ({"scheduler": 3}, "scheduler"),
    ({"scheduler": ["ddim"]}, "scheduler"),
    ({"image": "cat.png"}, "image"),
    ({"image": []}, "image"),
    ({"image": [PICTURE, None]}, "image"),
    ({"image": [PICTURE, PICTURE]}, "image"),
    ({"image": np.zeros((64, 64), np.float32)}, "image"),
    ({"image": np.zeros((64, 64, 5), np.float32)}, "image"),
    ({"image": np.full((64, 64, 3), NAN, np.float32)}, "image"),
    ({"image": np.full((64, 64, 3), 255.0, np.float32)}, "image"),
    ({"image": np.full((64, 64, 3), -1, np.int64)}, "image"),
    ({"image": np.full((64, 64, 3), 65536, np.int64)}, "image"),
    ({"image": np.ones((64, 64, 3), np.int64)}, "image"),
    ({"image": np.ones((64, 64, 3), np.uint8)}, "image"),
    ({"image": np.full((64, 64, 3), None, dtype=object)}, "image"),
    ({"image": TENSOR - 1}, "image"),
    ({"image": torch.zeros(2, 64, 64)}, "image"),
    ({"image": torch.zeros(4, 8, 8, dtype=torch.int32)}, "image"),
    ({"image": torch.full((4, 8, 8), INF)}, "image"),
    ({"image": np.zeros((64, 64, 3), np.complex64)}, "image"),
    ({"image": np.zeros(3, np.float32)}, "image"),
    ({"image": torch.tensor(1.0)}, "image"),
    ({"image": Image.new("RGB", (4, 64))}, "image"),
    ({"image": Image.new("RGB", (1 << 13, (1 << 13) + 1))}, "image"),
    ({"image": torch.zeros(4, 8, 8), "mask_image": PICTURE}, "image"),
    ({"image": torch.zeros(4, 8, 8), "height": 72}, "height"),
    ({"strength": 0.5}, "strength"),
    ({"image": PICTURE, "strength": 1.5}, "strength"),
    ({"image": PICTURE, "strength": NAN}, "strength"),
    ({"image": PICTURE, "strength": 0.0}, "strength"),
    ({"image": PICTURE, "strength": 0.1, "num_inference_steps": 3}, "strength"),
    ({"mask_image": PICTURE}, "mask_image"),
    ({"image": PICTURE, "mask_image": 3}, "mask_image"),
    ({"image": PICTURE, "mask_image": np.zeros((64, 64, 3), np.float32)}, "mask_image"),
    ({"image": PICTURE, "mask_image": np.full((64, 64), 2.0, np.float32)}, "mask_image"),
    (
        {"image": [PICTURE] * 2, "mask_image": [PICTURE] * 3, "num_images_per_prompt": 6},
        "mask_image",
    ),
    ({"eta": 2}, "eta"),
    ({"eta": None}, "eta"),
    ({"clip_skip": -1}, "clip_skip"),
    ({"clip_skip": 4}, "clip_skip"),
    ({"clip_skip": 1.0}, "clip_skip"),
    ({"output_type": "jpeg"}, "output_type"),
    ({"output_type": None}, "output_type"),
    ({"callback_on_step_end": 3}, "callback_on_step_end"),
    ({"callback_on_step_end_tensor_inputs": "latents"}, "callback_on_step_end_tensor_inputs"),
    ({"callback_on_step_end_tensor_inputs": ["weights"]}, "callback_on_step_end_tensor_inputs"),
]  # fmt: skip

XL_EMBEDS = torch.zeros(1, 77, 72)
BAD_XL = [
    ({"prompt_2": 3}, "prompt_2"),
    ({"prompt_2": ["a", "b"]}, "prompt_2"),
    ({"negative_prompt_2": 3.5}, "negative_prompt_2"),
    ({"negative_prompt_2": "a dog"}, "negative_prompt_2"),
    ({"original_size": 64}, "original_size"),
    ({"original_size": (64,)}, "original_size"),
    ({"original_size": (64, -1)}, "original_size"),
    ({"original_size": (64, "x")}, "original_size"),
    ({"target_size": (NAN, 64)}, "target_size"),
    ({"target_size": (1 << 20, 64)}, "target_size"),
    ({"crops_coords_top_left": (0, -3)}, "crops_coords_top_left"),
    ({"crops_coords_top_left": None}, "crops_coords_top_left"),
    ({"negative_original_size": "big"}, "negative_original_size"),
    ({"aesthetic_score": NAN}, "aesthetic_score"),
    ({"clip_skip": 3}, "clip_skip"),
    ({"prompt": None, "prompt_embeds": XL_EMBEDS}, "pooled_prompt_embeds: expected with prompt_em"),
    ({"prompt_2": "x", "prompt_embeds": XL_EMBEDS, "prompt": None}, "prompt_embeds: expected"),
    ({"pooled_prompt_embeds": torch.zeros(1, 31)}, "pooled_prompt_embeds: expected a float tensor"),
    ({"negative_prompt_embeds": XL_EMBEDS}, "negative_pooled_prompt_embeds: expected"),
    ({"negative_pooled_prompt_embeds": torch.zeros(1, 40)}, "negative_pooled_prompt_embeds"),
    ({"denoising_start": 0.5}, "denoising_start: expected an image with it"),
    (
        {"denoising_start": 0.5, "image": PICTURE, "latents": torch.zeros(1, 4, 8, 8)},
        "latents: expected none with denoising_start",
    ),
]


def named(case):
    # Without the addresses of objects: a test has one name.
    return re.sub(r"(?i) at 0x[0-9a-f]+", "", str(case))[:60] if isinstance(case, dict) else case


@pytest.mark.parametrize(("arguments", "field"), BAD, ids=named)
def test_refused(pair, arguments, field):
    refuse(pair("sd1").own, arguments, field)


@pytest.mark.parametrize(("arguments", "field"), BAD_XL, ids=named)
def test_refused_by_sdxl(pair, arguments, field):
    refuse(pair("sdxl").own, arguments, field)


def refuse(own, arguments, field):
    call = {"prompt": "a cat", "num_inference_steps": 2, **arguments}
    with pytest.raises(RequestError) as refusal:
        own(**call)
    message = str(refusal.value)
    assert message.startswith(field)
    assert len(message) < 400
    assert message.isascii()
    assert message.isprintable()


@pytest.mark.parametrize("arguments", [{}, {"image": PICTURE}])
def test_an_inpainting_model_needs_a_picture_and_a_mask(pair, arguments):
    with pytest.raises(RequestError, match="inpainting"):
        pair("inpaint").own("a cat", **arguments)


def test_a_refusal_takes_no_memory_for_what_was_asked(pair):
    """Sizes are checked before anything of that size is made."""
    import tracemalloc

    pipe = pair("sd1").own
    tracemalloc.start()
    for arguments in ({"height": 8192, "width": 8192}, {"num_images_per_prompt": 1024}):
        with pytest.raises(RequestError):
            pipe("a cat", **{"height": 2048, "width": 2048, **arguments})
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_numpy_numbers_are_numbers(pair):
    result = pair("sd1").own(
        "a cat", num_inference_steps=np.int64(2), guidance_scale=np.float32(2), seed=np.uint8(3),
        height=np.int32(32), width=np.int16(32),
    )  # fmt: skip
    assert result.seeds == [3]
    assert result.images[0].size == (32, 32)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"device": "tpu"}, RequestError, "device"),
        ({"device": 1.5}, RequestError, "device"),
        ({"device": "mps"}, RequestError, "device"),
        ({"dtype": "int8"}, RequestError, "dtype"),
        ({"dtype": torch.float64}, RequestError, "dtype"),
        ({"dtype": 32}, RequestError, "dtype"),
        ({"device": "cuda:99"}, UnavailableError, "device"),
        ({"weights": "fp4"}, RequestError, "weights: expected int8, fp8 or None, given 'fp4'"),
        ({"weights": torch.int8}, RequestError, "weights: expected int8, fp8 or None, given"),
    ],
)
def test_loading_with_a_wrong_argument(pair, options, error, text):
    with pytest.raises(error, match=text):
        from_pretrained(pair("sd1").folder, **options)


@pytest.mark.parametrize("model", ["", 3, b"x"])
def test_loading_something_that_is_no_place(model):
    with pytest.raises(RequestError, match="model"):
        from_pretrained(model)


def test_the_bounds_allow_what_people_draw():
    checks.check_total(2048, 2048, 4)
    checks.check_total(1024, 1024, 16)
    checks.check_total(512, 512, 64)
    checks.check_total(64, 64, 1024)
