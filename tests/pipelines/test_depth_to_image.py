"""Depth to image: diffusers' pictures, the bits of alone, maps that are refused."""

import json

import diffusers
import numpy as np
import pytest
import tiny
import torch
from pairs import psnr

import pyengine
from pyengine.errors import ConfigError, RequestError

CALL = {"num_inference_steps": 4, "output_type": "np"}
NAME = "StableDiffusionDepth2ImgPipeline"


def write(folder, channels=5):
    folder = tiny.write_sd2(folder, unet={"layers_per_block": 1, "in_channels": channels})
    index = json.loads((folder / "model_index.json").read_text())
    for name in ("safety_checker", "feature_extractor", "image_encoder", "requires_safety_checker"):
        index.pop(name, None)
    index |= {
        "_class_name": NAME,
        "depth_estimator": ["transformers", "DPTForDepthEstimation"],
        "feature_extractor": ["transformers", "DPTImageProcessor"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("depth") / "it")


@pytest.fixture(scope="module")
def own(folder):
    return pyengine.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def theirs(folder):
    pipe = diffusers.StableDiffusionDepth2ImgPipeline.from_pretrained(
        folder, depth_estimator=None, feature_extractor=None
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(seed=0):
    return np.random.default_rng(seed).random((32, 48, 3), dtype=np.float32)


def depth(seed=0, size=(24, 40)):
    return torch.rand(size, generator=torch.Generator().manual_seed(seed)) * 30


CASES = {
    "plain": {"negative_prompt": "green"},
    "without guidance": {"guidance_scale": 1.0, "strength": 1.0},
    "two": {"num_images_per_prompt": 2, "strength": 0.5},
}


@pytest.mark.parametrize("case", CASES)
def test_pictures_are_those_of_diffusers(own, theirs, case):
    pixels = torch.tensor(picture()).permute(2, 0, 1)[None]
    call = {**CALL, **CASES[case], "image": pixels}

    def drawn(pipe, shown):
        generator = torch.Generator().manual_seed(4)
        return pipe("a red heart", depth_map=shown, generator=generator, **call).images

    got, want = drawn(own, depth()), drawn(theirs, depth()[None])
    assert got.shape == want.shape
    assert psnr(want, got) >= 40, f"{psnr(want, got):.1f} dB"
    assert psnr(drawn(own, depth(1)), got) < 60


def test_a_picture_has_its_bits_alone(own):
    maps = [depth(i, (20, 20)) for i in range(2)]
    both = own(["a", "b"], [picture(), picture(1)], torch.stack(maps), seed=[1, 2], **CALL).images
    for i, prompt in enumerate(("a", "b")):
        alone = own(prompt, picture(i), maps[i].numpy(), seed=i + 1, **CALL).images[0]
        assert np.array_equal(alone, both[i])


WRONG = {
    "none": (None, "given none"),
    "integers": (torch.ones(4, 4, dtype=torch.int64), "finite numbers"),
    "one number": (torch.ones(4, 4), "one number"),
    "NaN": (torch.full((4, 4), float("nan")), "NaN"),
    "four dimensions": (torch.rand(1, 1, 4, 4), r"\[1, 1, 4, 4\]"),
    "too many": (torch.rand(3, 4, 4), "divides 1 pictures"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_maps_are_refused(own, kind):
    given, message = WRONG[kind]
    with pytest.raises(RequestError, match=f"depth_map: .*{message}"):
        own("a heart", picture(), given, **CALL)


def test_other_unets_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="in_channels 4, out_channels 4 do not fit"):
        pyengine.from_pretrained(write(tmp_path / "it", 4), device="cpu")
