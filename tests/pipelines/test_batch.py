"""A picture is the same alone and at any place in a batch, whatever stands beside it."""

import numpy as np
import pytest
import torch
from pairs import RANDOM, generators, psnr

#: What psnr() says of equal pictures.
EQUAL = 200.0
SIZE = {"height": 40, "width": 32}


def alone_and_at_every_slot(own, seeds=(3, 14, 15), **call):
    """PSNRs of the pictures of `seeds` alone against each rotation of them as one batch."""
    call = {"num_inference_steps": 6, "output_type": "np", **call}
    alone = {s: own("a red heart", seed=s, **call).images[0] for s in seeds}
    assert psnr(alone[seeds[0]], alone[seeds[1]]) < 40, "seeds that draw the same prove nothing"
    results = []
    for shift in range(len(seeds)):
        order = [*seeds[shift:], *seeds[:shift]]
        batch = own("a red heart", seed=order, num_images_per_prompt=len(seeds), **call).images
        results += [psnr(alone[s], picture) for s, picture in zip(order, batch, strict=True)]
    return results


@pytest.mark.parametrize("sampler", [None, *RANDOM, "heun", "unipc"])
def test_text_to_image(pair, sampler):
    assert min(alone_and_at_every_slot(pair("sd1").own, scheduler=sampler, **SIZE)) == EQUAL


@pytest.mark.parametrize("model", ["sd2", "sdxl"])
def test_other_models(pair, model):
    own = pair(model).own
    results = alone_and_at_every_slot(
        own, scheduler="euler_ancestral", guidance_rescale=0.5, **SIZE
    )
    assert min(results) == EQUAL


def test_image_to_image(pair, photo):
    own = pair("sd1").own
    results = alone_and_at_every_slot(own, image=photo, strength=0.7, scheduler="euler_ancestral")
    assert min(results) == EQUAL


@pytest.mark.parametrize("model", ["sd1", "inpaint"])
def test_inpainting(pair, photo, mask, model):
    results = alone_and_at_every_slot(
        pair(model).own,
        image=photo,
        mask_image=mask,
        strength=0.8,
        scheduler="euler_ancestral",
        height=48,
        width=80,
    )
    assert min(results) == EQUAL


def test_other_prompts_beside_it(pair):
    own = pair("sd1").own
    call = {"num_inference_steps": 5, "output_type": "np", "scheduler": "euler_ancestral", **SIZE}
    alone = own("a red heart", seed=8, negative_prompt="blue", **call).images[0]
    batch = own(
        ["two cats", "a red heart", "the moon"],
        seed=[1, 8, 2],
        negative_prompt=["", "blue", "a dog"],
        **call,
    ).images
    assert psnr(alone, batch[1]) == EQUAL


def test_a_seed_counts_up_from_picture_to_picture(pair):
    own = pair("sd1").own
    call = {"num_inference_steps": 2, "output_type": "np", **SIZE}
    batch = own(["a cat", "a dog"], num_images_per_prompt=2, seed=40, **call)
    assert batch.seeds == [40, 41, 42, 43]
    assert psnr(own("a dog", seed=43, **call).images[0], batch.images[3]) == EQUAL


def test_seeds_that_nobody_chose_are_told_and_repeat_the_picture(pair):
    own = pair("sd1").own
    call = {"num_inference_steps": 2, "output_type": "np", **SIZE}
    first = own("a cat", num_images_per_prompt=2, **call)
    again = own("a cat", num_images_per_prompt=2, seed=first.seeds, **call)
    other = own("a cat", num_images_per_prompt=2, **call)
    assert np.array_equal(first.images, again.images)
    assert first.seeds != other.seeds
    assert not np.array_equal(first.images, other.images)


def test_the_same_call_gives_the_same_bits(pair):
    own = pair("sdxl").own
    call = {"num_inference_steps": 4, "seed": 5, "output_type": "pt", **SIZE}
    assert torch.equal(own("a cat", **call).images, own("a cat", **call).images)


def test_a_generator_list_of_one_is_that_generator(pair):
    own = pair("sd1").own
    call = {"num_inference_steps": 2, "output_type": "pt", **SIZE}
    one = own("a cat", generator=generators(5), **call)
    assert torch.equal(one.images, own("a cat", generator=[generators(5)], **call).images)
    assert one.seeds == [None]
