"""Masks and pictures of every kind, through whole pipelines."""

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from pixel_cases import ALPHA, grey, layer

import pyengine

# What is not expected to warn must not.
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def pipes(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            write = {"sd": tiny.write_sd1, "sdxl": tiny.write_sdxl, "amused": tiny.write_amused}
            folder = write[name](tmp_path_factory.mktemp("pixels") / name)
            made[name] = pyengine.from_pretrained(folder, device="cpu")
        return made[name]

    return get


def inpaint(pipe, mask, **call):
    height, width = pipe.default_size
    y, x = np.mgrid[0:height, 0:width]
    photo = Image.fromarray(((x * 7 + y * 3) % 256).astype(np.uint8)).convert("RGB")
    return pipe(
        "a red heart",
        image=photo,
        mask_image=mask,
        height=height,
        width=width,
        seed=4,
        num_inference_steps=2,
        output_type="pt",
        progress=False,
        strength=1.0,
        **call,
    )


def masks_for(pipe):
    """The left half painted, in many ways; the first is the plainest."""
    height, width = pipe.default_size
    plain = np.zeros((height, width), np.uint8)
    plain[:, : width // 2] = 255
    yield grey(plain)
    for mode in ALPHA:
        yield layer(mode, "white", plain)
    yield grey(plain // 255)
    yield plain // 255
    yield torch.from_numpy(plain > 0)[None, None]
    yield [torch.from_numpy(plain // 255).long()[None, None]]
    yield grey(plain.astype(np.int32))
    yield grey(plain.astype(np.float32))
    yield grey(plain.astype(np.float32) / 255)
    yield grey(plain.astype(np.uint16) * 257)


@pytest.mark.parametrize("name", ["sd", "sdxl", "amused"])
def test_inpainting(pipes, name):
    pipe = pipes(name)
    plain, *others = masks_for(pipe)
    wanted = inpaint(pipe, plain).images
    for other in others:
        assert torch.equal(inpaint(pipe, other).images, wanted)


@pytest.mark.parametrize("name", ["sd", "sdxl", "amused"])
def test_the_report_says_what_a_mask_leaves(pipes, name):
    pipe = pipes(name)
    height, width = pipe.default_size
    with pytest.warns(UserWarning, match="mask_image: nothing of it is white"):
        nothing = inpaint(pipe, layer("RGBA", "black", np.zeros((height, width), np.uint8)))
    assert "nothing of it is white" in nothing.report.warnings[0]
    with pytest.warns(UserWarning, match="mask_image: all of it is white"):
        inpaint(pipe, np.ones((height, width), bool))


def test_a_mask_that_is_finer_than_latents(pipes):
    pipe = pipes("sd")
    height, width = pipe.default_size
    thin = np.zeros((height, width), bool)
    thin[:, 3] = True
    with pytest.warns(UserWarning, match="finer than 8 pixels"):
        inpaint(pipe, thin)


def test_image_to_image_from_lists_of_batches(pipes):
    pipe = pipes("sd")
    rgb = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    call = {"num_inference_steps": 2, "seed": 4, "output_type": "pt", "progress": False}
    wanted = pipe(["a cat"] * 2, image=[rgb[0], rgb[0]], **call).images
    assert torch.equal(pipe(["a cat"] * 2, image=[rgb, rgb], **call).images, wanted)
    assert torch.equal(pipe(["a cat"] * 2, image=rgb.repeat(2, 1, 1, 1), **call).images, wanted)
