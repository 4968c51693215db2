"""Pictures from pictures, whole and with a mask, against diffusers' pipelines."""

import numpy as np
import pytest
import torch
from pairs import LEAST_PSNR, generators, psnr

MODELS = ("sd1", "sd2", "sdxl")
INPAINTING = ("sd1", "sdxl", "inpaint", "inpaint_xl")
SIZE = {"height": 48, "width": 80}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("strength", [0.35, 0.8, 1.0])
def test_image_to_image(pair, photo, model, strength):
    pair(model).check(task="image_to_image", image=photo, strength=strength, num_inference_steps=6)


@pytest.mark.parametrize("sampler", ["euler_ancestral", "heun", "dpmpp_2m", "unipc", "ddpm"])
def test_image_to_image_samplers(pair, photo, sampler):
    pair("sd1").check(
        task="image_to_image", image=photo, strength=0.6, num_inference_steps=8, scheduler=sampler
    )


@pytest.mark.parametrize("model", ["sd1", "sdxl"])
def test_the_default_strength(pair, photo, model):
    pair(model).check(task="image_to_image", image=photo, num_inference_steps=10)


@pytest.mark.parametrize("model", MODELS)
def test_several_pictures_from_one(pair, photo, model):
    """One generator draws for the picture once, then for the whole batch; a list for each."""
    call = {
        "task": "image_to_image", "image": photo, "strength": 0.5, "num_inference_steps": 4,
        "num_images_per_prompt": 2, "scheduler": "euler_ancestral",
    }  # fmt: skip
    pair(model).check(seed=3, **call)
    pair(model).check(seed=[3, 9], **call)


def test_several_pictures_from_several(pair, photo):
    images = [photo, photo.transpose(0)]
    pair("sd1").check(
        ["a red heart", "two cats"],
        task="image_to_image",
        image=images,
        strength=0.5,
        num_inference_steps=4,
        num_images_per_prompt=2,
        seed=5,
    )


@pytest.mark.parametrize("kind", ["array", "batch", "tensor", "uneven"])
def test_other_kinds_of_picture(pair, photo, kind):
    array = np.asarray(photo, dtype=np.float32) / 255
    image = {
        "array": array,
        "batch": array[None],
        "tensor": torch.from_numpy(array).permute(2, 0, 1),
        "uneven": photo.resize((75, 43)),  # not a multiple of 8: shrunk to 72 x 40
    }[kind]
    pair("sd1").check(task="image_to_image", image=image, strength=0.5, num_inference_steps=4)


def test_latents_as_a_picture(pair):
    latents = torch.randn(1, 4, 6, 5, generator=generators(1))
    pair("sd1").check(task="image_to_image", image=latents, strength=0.5, num_inference_steps=4)


def test_a_picture_is_resized_to_height_and_width(pair, photo):
    own = pair("sd1").own
    call = {"seed": 1, "strength": 0.5, "num_inference_steps": 4, "output_type": "np"}
    resized = own("a cat", image=photo.resize((48, 56), 1), **call).images
    asked = own("a cat", image=photo, height=56, width=48, **call).images
    assert np.array_equal(resized, asked)


# --- inpainting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", INPAINTING)
@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_inpainting(pair, photo, mask, model, strength):
    pair(model).check(
        task="inpainting",
        image=photo,
        mask_image=mask,
        strength=strength,
        num_inference_steps=5,
        **SIZE,
    )


@pytest.mark.parametrize("model", ["sd1", "inpaint"])
@pytest.mark.parametrize("sampler", ["euler_ancestral", "heun", "dpmpp_2m", "ddpm"])
def test_inpainting_samplers(pair, photo, mask, model, sampler):
    """With noise drawn in every step, a wrong order of the first draws would show."""
    pair(model).check(
        task="inpainting",
        image=photo,
        mask_image=mask,
        strength=0.8,
        num_inference_steps=5,
        scheduler=sampler,
        **SIZE,
    )


@pytest.mark.parametrize("model", ["sd1", "inpaint"])
def test_inpainting_several_from_one_generator(pair, photo, mask, model):
    pair(model).check(
        task="inpainting",
        image=photo,
        mask_image=mask,
        strength=0.8,
        num_inference_steps=4,
        num_images_per_prompt=2,
        scheduler="euler_ancestral",
        **SIZE,
    )


@pytest.mark.parametrize("model", ["sd1", "inpaint"])
def test_inpainting_with_a_generator_for_each_picture(pair, photo, mask, model):
    """diffusers draws the picture's latents from the first generator alone, unless it is given a
    picture for each; ours does not let one picture depend on another."""
    call = {"mask_image": mask, "strength": 0.8, "num_inference_steps": 4, **SIZE}
    expected = (
        pair(model)
        .inpainting(
            ["a cat"] * 2,
            image=[photo, photo],
            generator=generators([4, 9]),
            output_type="np",
            **call,
        )
        .images
    )
    got = (
        pair(model)
        .own("a cat", image=photo, num_images_per_prompt=2, seed=[4, 9], output_type="np", **call)
        .images
    )
    assert psnr(expected, got) >= LEAST_PSNR


def test_latents_that_are_given_to_inpainting(pair, photo, mask):
    noise = torch.randn(1, 4, 6, 10, generator=generators(2))
    pair("inpaint").check(
        task="inpainting",
        image=photo,
        mask_image=mask,
        latents=noise,
        strength=0.6,
        num_inference_steps=4,
        **SIZE,
    )


def test_what_the_mask_keeps_is_kept(pair, photo, mask):
    own = pair("sd1").own
    call = {"image": photo, "num_inference_steps": 4, "seed": 1, "output_type": "latent", **SIZE}
    latents = own("a cat", mask_image=mask, **call).images
    nothing = own("a cat", mask_image=mask.point(lambda v: 0), **call).images
    small = np.asarray(mask)[::8, ::8] >= 128
    assert torch.equal(
        latents[0][:, ~torch.from_numpy(small)], nothing[0][:, ~torch.from_numpy(small)]
    )
    assert not torch.equal(latents, nothing)


@pytest.mark.parametrize("kind", ["array", "tensor", "colour"])
def test_other_kinds_of_mask(pair, photo, mask, kind):
    array = np.asarray(mask, dtype=np.float32) / 255
    given = {
        "array": array,
        "tensor": torch.from_numpy(array)[None],
        "colour": mask.convert("RGB"),
    }[kind]
    expected = (
        pair("sd1")
        .inpainting(
            "a cat",
            image=photo,
            mask_image=given,
            generator=generators(4),
            output_type="np",
            num_inference_steps=4,
            **SIZE,
        )
        .images
    )
    got = (
        pair("sd1")
        .own(
            "a cat",
            image=photo,
            mask_image=given,
            generator=generators(4),
            output_type="np",
            num_inference_steps=4,
            **SIZE,
        )
        .images
    )
    assert psnr(expected, got) >= LEAST_PSNR
