"""How an autoencoder's latents are scaled: as diffusers does, and what it leaves out is said."""

from __future__ import annotations

import warnings

import diffusers
import numpy as np
import pytest
import tiny
from pairs import SMALL, generators, quiet, xl_scheduler

import pyengine

MEAN, STD = [-1.6, 0.7, 0.2, -0.4], [8.4, 5.9, 5.4, 5.8]
CALL = {"num_inference_steps": 3, "output_type": "np"}


def open_both(folder, cls):
    quiet()
    theirs = cls.from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    return theirs, pyengine.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def per_channel(tmp_path_factory):
    """Like Playground's: a mean and a deviation per channel, and 0.5."""
    vae = {"latents_mean": MEAN, "latents_std": STD, "scaling_factor": 0.5}
    folder = tmp_path_factory.mktemp("scaled") / "c"
    return tiny.write_sdxl(folder, unet=SMALL, vae=vae, scheduler=xl_scheduler())


@pytest.mark.parametrize("task", ["text", "image", "mask"])
def test_statistics_per_channel_are_applied_as_in_diffusers(task, per_channel, photo, mask):
    cls = {
        "text": diffusers.StableDiffusionXLPipeline,
        "image": diffusers.StableDiffusionXLImg2ImgPipeline,
        "mask": diffusers.StableDiffusionXLInpaintPipeline,
    }[task]
    theirs, ours = open_both(per_channel, cls)
    size = {"height": 48, "width": 80}
    call = {
        "text": size,
        "image": {"image": photo, "strength": 0.7},
        "mask": {
            "image": photo,
            "mask_image": mask,
            "strength": 0.7,
            "guidance_scale": 4.0,
            **size,
        },
    }[task]
    want = theirs("a red heart", generator=generators(2), **call, **CALL).images
    got = ours("a red heart", generator=generators(2), **call, **CALL).images
    assert want.std() > 0.02
    assert np.abs(got - want).max() < 2e-5


def test_they_matter(per_channel):
    """Or the test above would show nothing."""
    ours = pyengine.from_pretrained(per_channel, device="cpu")
    call = {"seed": 1, "height": 32, "width": 32, "num_inference_steps": 1}
    latents = ours("a cat", output_type="latent", **call).images
    plain = ours.vae.decode(latents / 0.5).sample
    picture = ours("a cat", output_type="np", **call).images
    assert np.abs(picture - (plain.permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1).numpy()).max() > 0.05


@pytest.mark.parametrize(
    ("vae", "said"),
    [
        ({"shift_factor": 0.3}, r"vae/config.json: shift_factor 0.3 is not applied"),
        (
            {"latents_mean": MEAN, "latents_std": STD},
            "latents_mean and latents_std are not applied",
        ),
    ],
    ids=["shift", "per channel"],
)
def test_what_diffusers_ignores_is_ignored_aloud(vae, said, tmp_path, photo):
    folder = tiny.write_sd1(tmp_path / "c", unet=SMALL, vae=vae)
    with pytest.warns(UserWarning, match=said):
        theirs, ours = open_both(folder, diffusers.StableDiffusionImg2ImgPipeline)
    call = {"image": photo, "strength": 0.7, **CALL}
    want = theirs("a red heart", generator=generators(2), **call).images
    got = ours("a red heart", generator=generators(2), **call).images
    assert np.abs(got - want).max() < 2e-5


@pytest.mark.parametrize("vae", [{}, {"shift_factor": 0.0}, {"shift_factor": None}], ids=str)
def test_nothing_is_said_where_nothing_is_left_out(vae, tmp_path):
    folder = tiny.write_sd1(tmp_path / "c", unet=SMALL, vae=vae)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pyengine.from_pretrained(folder, device="cpu")
