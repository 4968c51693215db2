"""Inpainting of a part, and latents in the masked picture's place, against diffusers."""

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from pairs import generators
from PIL import Image

from pyengine.pipelines.stable_diffusion.crop import cut

STEPS = {"num_inference_steps": 4}
BOXES = [(19, 10, 60, 37), (0, 0, 5, 48), (70, 40, 80, 48), (30, 3, 34, 5), (0, 20, 80, 22)]


def holes(box, size=(80, 48)):
    mask = Image.new("L", size)
    mask.paste(255, box)
    return mask


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("pad", [0, 3, 40])
@pytest.mark.parametrize("size", [(64, 64), (80, 48), (24, 96), (56, 8)])
def test_the_part_and_its_way_back(photo, box, pad, size):
    """diffusers' image processor, to the pixel."""
    width, height = size
    mask = holes(box)
    part = cut(photo, mask, size, pad)
    processor = VaeImageProcessor(do_normalize=False)
    region = processor.get_crop_region(mask, width, height, pad=pad)
    assert part.region == region
    how = {"height": height, "width": width, "crops_coords": region, "resize_mode": "fill"}
    want = processor.preprocess(photo, **how)[0].permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(part.image, dtype=np.float32) / 255, want)
    masks = VaeImageProcessor(do_normalize=False, do_convert_grayscale=True)
    want = masks.preprocess(mask, **how)[0, 0].numpy()
    assert np.array_equal(np.asarray(part.mask, dtype=np.float32) / 255, want)
    painted = photo.transpose(Image.Transpose.ROTATE_180).resize(size)
    want = processor.apply_overlay(mask, photo, painted, region)
    got = part.lay(painted)
    assert got.mode == want.mode
    assert np.array_equal(np.asarray(got), np.asarray(want))


@pytest.mark.parametrize("name", ["sd1", "sdxl", "inpaint"])
@pytest.mark.parametrize("box", BOXES[:2])
def test_inpainting_of_a_part(pair, photo, name, box):
    """Whole pictures; ours are PIL's, so a difference is a rounded one."""
    call = {
        "image": photo,
        "mask_image": holes(box),
        "padding_mask_crop": 6,
        "strength": 0.8,
        "height": 64,
        "width": 48,
        **STEPS,
    }
    want = pair(name).inpainting("a cat", generator=generators(3), **call).images[0]
    result = pair(name).own("a cat", generator=generators(3), **call)
    got = result.images[0]
    assert got.size == want.size == photo.size
    assert (result.report.height, result.report.width) == (64, 48)
    difference = np.abs(np.asarray(got, dtype=int) - np.asarray(want, dtype=int))
    assert difference.max() <= 1
    kept = np.asarray(holes(box)) == 0
    assert np.array_equal(np.asarray(got)[kept], np.asarray(photo)[kept])
    assert not np.array_equal(np.asarray(got), np.asarray(photo))


def test_several_pictures_of_a_part(pair, photo):
    call = {"image": photo, "mask_image": holes(BOXES[0]), "padding_mask_crop": 6, **STEPS}
    own = pair("sd1").own
    both = own("a cat", num_images_per_prompt=2, seed=1, **call).images
    alone = own("a cat", seed=2, **call).images
    assert np.array_equal(np.asarray(both[1]), np.asarray(alone[0]))


# --- latents of the masked picture ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd1", "inpaint", "sdxl", "inpaint_xl"])
@pytest.mark.parametrize("strength", [0.7, 1.0])
def test_latents_of_the_masked_picture(pair, photo, mask, name, strength):
    masked = torch.randn(1, 4, 6, 10, generator=generators(8))
    pair(name).check(
        task="inpainting",
        image=photo,
        mask_image=mask,
        masked_image_latents=masked,
        strength=strength,
        height=48,
        width=80,
        scheduler="euler_ancestral",
        **STEPS,
    )


@pytest.mark.parametrize("name", ["sd1", "inpaint", "sdxl"])
def test_latents_in_the_place_of_both_pictures(pair, mask, name):
    image, masked = torch.randn(2, 1, 4, 6, 10, generator=generators(8))
    given = {} if name == "sdxl" else {"masked_image_latents": masked}
    pair(name).check(
        task="inpainting",
        image=image,
        mask_image=mask,
        strength=0.7,
        height=48,
        width=80,
        **given,
        **STEPS,
    )


def test_latents_for_several_pictures(pair, photo, mask):
    masked = torch.randn(2, 4, 6, 10, generator=generators(8))
    own, size = pair("inpaint").own, {"height": 48, "width": 80}
    call = {"image": photo, "mask_image": mask, "output_type": "latent", **size, **STEPS}
    four = own("a cat", num_images_per_prompt=4, seed=1, masked_image_latents=masked, **call)
    for k in range(4):
        one = masked[k % 2 : k % 2 + 1]
        alone = own("a cat", seed=1 + k, masked_image_latents=one, **call)
        assert torch.equal(four.images[k], alone.images[0])
