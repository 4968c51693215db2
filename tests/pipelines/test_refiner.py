"""SDXL's refiner: one text encoder, an aesthetic score in place of the target size."""

from __future__ import annotations

import json

import diffusers
import numpy as np
import pytest
import tiny
from pairs import SMALL, generators, xl_scheduler

import pyengine
from pyengine.errors import CheckpointError, RequestError
from pyengine.weights import resolve

CALL = {"num_inference_steps": 4, "strength": 0.6, "output_type": "np"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("refiner") / "c"
    return tiny.write_refiner(root, unet=SMALL, scheduler=xl_scheduler())


@pytest.fixture(scope="module")
def ours(folder):
    return pyengine.from_pretrained(folder, device="cpu")


def load(folder, cls):
    pipe = cls.from_pretrained(folder, requires_aesthetics_score=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"aesthetic_score": 9.0, "negative_aesthetic_score": 1.0, "guidance_scale": 4.0},
        {"original_size": (64, 32), "crops_coords_top_left": (8, 0), "target_size": (50, 50)},
        {"negative_original_size": (64, 32), "negative_crops_coords_top_left": (4, 4)},
        {"negative_prompt": "blue", "guidance_scale": 1.0},
    ],
    ids=["plain", "scores", "sizes", "negative sizes", "unguided"],
)
def test_image_to_image_is_diffusers(more, folder, ours, photo):
    theirs = load(folder, diffusers.StableDiffusionXLImg2ImgPipeline)
    call = {"image": photo, **CALL, **more}
    want = theirs("a red heart", generator=generators(5), **call).images
    got = ours("a red heart", generator=generators(5), **call).images
    assert want.std() > 0.02
    assert np.abs(got - want).max() < 1e-5


def test_inpainting_is_diffusers(folder, ours, photo, mask):
    theirs = load(folder, diffusers.StableDiffusionXLInpaintPipeline)
    call = {
        "image": photo,
        "mask_image": mask,
        "height": 48,
        "width": 80,
        "guidance_scale": 4.0,
        "aesthetic_score": 8.0,
        **CALL,
    }
    want = theirs("a red heart", generator=generators(5), **call).images
    got = ours("a red heart", generator=generators(5), **call).images
    assert np.abs(got - want).max() < 1e-5


def test_scores_change_the_picture(ours, photo):
    one, other = (
        ours("a cat", image=photo, seed=1, aesthetic_score=s, **CALL).images for s in (2.0, 9.0)
    )
    assert np.abs(one - other).max() > 1e-3


def test_without_an_image_it_is_refused(ours):
    with pytest.raises(RequestError, match="image: this model is a refiner: expected an image"):
        ours("a red heart", num_inference_steps=2)


@pytest.mark.parametrize("name", ["aesthetic_score", "negative_aesthetic_score"])
@pytest.mark.parametrize("with_image", [False, True])
def test_a_base_model_refuses_scores(name, with_image, pair, photo):
    given = {"image": photo} if with_image else {}
    with pytest.raises(RequestError, match=f"^{name}: only a refiner .*, given 6.0"):
        pair("sdxl").own("a red heart", num_inference_steps=2, **given, **{name: 6.0})


def test_half_a_text_encoder_is_refused(folder, tmp_path):
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer"] = ["transformers", "CLIPTokenizer"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="Pipeline needs text_encoder too"):
        resolve(tmp_path)


def test_a_refiner_that_is_not_said_to_be_one_is_refused(folder, tmp_path):
    import shutil

    copy = shutil.copytree(folder, tmp_path / "c")
    index = json.loads((copy / "model_index.json").read_text())
    index["requires_aesthetics_score"] = False
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="projection_class_embeddings_input_dim 80, but"):
        pyengine.from_pretrained(copy, device="cpu")
