"""Kandinsky 2.2's decoder against diffusers' pipelines over the same checkpoints."""

import json

import diffusers
import kandinsky_folders
import numpy as np
import pytest
import torch
from pairs import LEAST_PSNR, generators, psnr
from PIL import Image

import pyengine
from pyengine.cli import main
from pyengine.errors import ConfigError, RequestError

LEARNED = {**kandinsky_folders.SCHEDULER, "variance_type": "learned_range"}
FOLDERS = {
    "fixed": {},
    "learned": {"scheduler": lambda: diffusers.DDPMScheduler(**LEARNED)},
    "ddim": {"scheduler": lambda: diffusers.DDIMScheduler(**kandinsky_folders.SCHEDULER)},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = {}

    def find(name="fixed"):
        if name not in made:
            keys = {key: make() for key, make in FOLDERS[name].items()}
            made[name] = kandinsky_folders.write(tmp_path_factory.mktemp(name) / name, **keys)
        return made[name]

    return find


@pytest.fixture(scope="module")
def own(folder):
    """own(name): pyengine's pipeline of it."""
    made = {}

    def find(name="fixed"):
        if name not in made:
            made[name] = pyengine.from_pretrained(folder(name), device="cpu")
        return made[name]

    return find


def theirs(folder, image=False):
    cls = diffusers.KandinskyV22Img2ImgPipeline if image else diffusers.KandinskyV22Pipeline
    pipe = cls.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def embeds(count=2):
    g = torch.Generator().manual_seed(11)
    both = torch.randn(2, 3, kandinsky_folders.WIDTH, generator=g)
    return {"image_embeds": both[0, :count], "negative_image_embeds": both[1, :count]}


def photo(seed=0, size=(90, 70)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


# --- diffusers' pictures --------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [5, 20, 50])
@pytest.mark.parametrize("name", FOLDERS)
def test_pictures_are_diffusers(folder, own, name, steps):
    call = {"num_inference_steps": steps, "output_type": "np", "height": 22, "width": 29}
    want = theirs(folder(name))(**embeds(), generator=generators([7, 8]), **call).images
    got = own(name)(**embeds(), generator=generators([7, 8]), **call).images
    assert want.shape == (2, 24, 32, 3)  # rounded up
    assert want.std() > 0.1
    assert psnr(want, got) >= LEAST_PSNR


@pytest.mark.parametrize("generator", [5, [5, 6, 7, 8]])
def test_arguments_are_diffusers(folder, own, generator):
    """Several pictures of an embedding; one generator for all; lists of embeddings; latents."""
    call = {"num_inference_steps": 6, "output_type": "np", "height": 16, "width": 20}
    call |= {"num_images_per_prompt": 2, "guidance_scale": 2.5}
    call |= {name: list(rows.split(1)) for name, rows in embeds().items()}
    want = theirs(folder())(generator=generators(generator), **call).images
    got = own()(generator=generators(generator), **call).images
    assert psnr(want, got) >= LEAST_PSNR
    call["latents"] = torch.randn(4, 4, 8, 10, generator=generators(3))
    want = theirs(folder())(generator=generators(generator), **call).images
    assert psnr(want, own()(generator=generators(generator), **call).images) >= LEAST_PSNR


def test_without_guidance(folder, own):
    call = {"num_inference_steps": 6, "output_type": "np", "height": 16, "width": 16}
    call["guidance_scale"] = 1.0
    pipe = theirs(folder("learned"))  # without guidance diffusers runs only with that variance
    want = pipe(**embeds(), generator=generators([1, 2]), **call).images
    got = own("learned")(embeds()["image_embeds"], generator=generators([1, 2]), **call).images
    assert psnr(want, got) >= LEAST_PSNR


@pytest.mark.parametrize("steps", [5, 20, 50])
@pytest.mark.parametrize("strength", [0.3, 0.8])
def test_image_to_image_is_diffusers(folder, own, steps, strength):
    call = {"num_inference_steps": steps, "output_type": "np", "height": 24, "width": 24}
    call |= {"strength": strength, **embeds()}
    images = [photo(1), photo(2, (24, 24))]
    want = theirs(folder(), True)(image=images, generator=generators([7, 8]), **call).images
    got = own()(image=images, generator=generators([7, 8]), **call)
    assert want.std() > 0.1
    assert psnr(want, got.images) >= LEAST_PSNR
    assert got.report.strength == strength


# --- inpainting -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory):
    return kandinsky_folders.write(tmp_path_factory.mktemp("inpaint") / "d", kind="Inpaint")


def hole(corner=(20, 10), size=(90, 70)):
    """A mask with a white rectangle and a slanted white line, whose sides are told apart."""
    mask = np.zeros((size[1], size[0]), np.uint8)
    mask[corner[0] : corner[0] + 21, corner[1] : corner[1] + 30] = 255
    for i in range(min(mask.shape)):
        mask[i, max(0, i - 4) : i + 1] = 255
    return Image.fromarray(mask)


@pytest.mark.parametrize("steps", [5, 20, 50])
@pytest.mark.parametrize("size", [(24, 24), (16, 28)])
def test_inpainting_is_diffusers(inpainting, steps, size):
    call = {"num_inference_steps": steps, "output_type": "np", "height": size[0], "width": size[1]}
    call |= {"num_images_per_prompt": 2, "image": photo(1), "mask_image": hole(), **embeds(1)}
    pipe = diffusers.KandinskyV22InpaintPipeline.from_pretrained(inpainting)
    pipe.set_progress_bar_config(disable=True)
    want = pipe(generator=generators([7, 8]), **call).images
    made = pyengine.from_pretrained(inpainting, device="cpu")
    got = made(generator=generators([7, 8]), **call).images
    assert want.std() > 0.1
    assert psnr(want, got) >= LEAST_PSNR


def test_inpainting_is_the_same_alone_and_in_a_batch(inpainting):
    pipe = pyengine.from_pretrained(inpainting, device="cpu")
    images, masks = [photo(i) for i in range(3)], [hole((5 * i, 7 * i)) for i in range(3)]
    scales = [4.0, 1.0, 2.0]
    together = pipe(
        **embeds(3), image=images, mask_image=masks, seed=5, guidance_scale=scales, **SMALL
    ).images
    for i in range(3):
        call = {**SMALL, "image": images[i], "mask_image": masks[i], "seed": 5 + i}
        alone = pipe(**rows(i), guidance_scale=scales[i], **call).images
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "image: this decoder is one for inpainting and needs it"),
        ({"image": photo()}, "mask_image: this decoder is one for inpainting and needs it"),
        ({"image": photo(), "mask_image": hole(), "strength": 0.5}, "strength: a decoder for inp"),
        ({"image": photo(), "mask_image": [hole()] * 3}, "mask_image: expected 1 or 2 pictures"),
    ],
)
def test_wrong_arguments_of_inpainting(inpainting, call, message):
    pipe = pyengine.from_pretrained(inpainting, device="cpu")
    with pytest.raises(RequestError, match=message):
        pipe(**embeds(), **call)


def test_a_folder_of_image_to_image(own, tmp_path):
    made = kandinsky_folders.write(tmp_path / "d", kind="Img2Img")
    pipe = pyengine.from_pretrained(made, device="cpu")
    call = {"seed": 3, "num_inference_steps": 4, "output_type": "np", "height": 16, "width": 16}
    want = own()(**embeds(), image=photo(), **call).images
    assert (pipe(**embeds(), image=photo(), **call).images == want).all()


def test_saved_again_it_is_the_same_to_both(own, tmp_path):
    own("learned").save_pretrained(tmp_path / "saved")
    again = pyengine.from_pretrained(tmp_path / "saved", device="cpu")
    call = {"num_inference_steps": 3, "output_type": "np", "height": 16, "width": 16, **embeds()}
    want = own("learned")(seed=4, **call).images
    assert (again(seed=4, **call).images == want).all()
    drawn = theirs(tmp_path / "saved")(generator=generators([4, 5]), **call).images
    assert psnr(drawn, want) >= LEAST_PSNR


# --- bits -----------------------------------------------------------------------------------------


SMALL = {"num_inference_steps": 4, "output_type": "pt", "height": 16, "width": 20}


def rows(i):
    return {name: tensor[i : i + 1] for name, tensor in embeds(3).items()}


@pytest.mark.parametrize("name", ["fixed", "learned"])
@pytest.mark.parametrize("image", [False, True])
def test_the_same_bits_alone_and_in_a_batch(own, name, image):
    scales, images = [4.0, 1.0, 2.0], [photo(i) for i in range(3)]
    call = {**SMALL, **({"strength": 0.7} if image else {})}
    given = {"image": images} if image else {}
    together = own(name)(**embeds(3), seed=[5, 6, 7], guidance_scale=scales, **given, **call).images
    for i in range(3):
        given = {"image": images[i]} if image else {}
        alone = own(name)(**rows(i), seed=5 + i, guidance_scale=scales[i], **given, **call).images
        assert torch.equal(alone[0], together[i])


def test_one_picture_for_all_is_one_for_each(own):
    call = {**SMALL, **embeds(), "seed": 5, "num_images_per_prompt": 2}
    one = own()(image=photo(), **call).images
    assert torch.equal(one, own()(image=[photo()] * 2, **call).images)
    assert torch.equal(one, own()(image=[photo()] * 4, **call).images)


def test_the_same_bits_on_any_number_of_threads(own, use_threads):
    results = []
    for threads in (1, 3):
        use_threads(threads)
        results.append(own("learned")(**embeds(), image=photo(), seed=5, **SMALL).images)
    assert torch.equal(*results)


def test_jobs_of_several_calls_in_one_step(own):
    """Other embeddings, samplers, scales and positions, each with the bits that it has alone."""
    pipe = own("learned")
    calls = [
        {**rows(0), "seed": 1},
        {**rows(1), "seed": 2, "num_inference_steps": 3, "guidance_scale": 1.0},
        {**rows(2), "seed": 3, "num_inference_steps": 5, "scheduler": "ddim"},
        {**rows(0), "seed": 4, "image": photo(), "strength": 0.5},
    ]
    calls = [{**SMALL, **call} for call in calls]
    alone = [pipe(**call).images[0] for call in calls]
    jobs = []
    for call in calls:
        jobs += pipe.prepare(pipe.request(**call))
        pipe.step([job for job in jobs if job.active])
    while any(job.active for job in jobs):
        pipe.step([job for job in jobs if job.active])
    for job, want in zip(jobs, alone, strict=True):
        assert torch.equal(pipe.finish(job), want)


def test_every_sampler_runs(own):
    for sampler in ("ddim", "euler", "dpmpp_2m", "unipc", "heun"):
        picture = own()(**rows(0), seed=1, scheduler=sampler, **SMALL).images
        assert picture.isfinite().all()


# --- errors, command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, r"image_embeds: expected a float tensor \[B, 32\], or a list of such"),
        ({"image_embeds": torch.zeros(2, 31)}, r"image_embeds: expected shape \[2, 32\]"),
        ({"image_embeds": torch.zeros(2, 32, 1)}, r"image_embeds: .*given \[2, 32, 1\]"),
        ({"image_embeds": torch.full((1, 32), torch.nan)}, "image_embeds: expected finite"),
        ({"image_embeds": torch.zeros(2, 32)}, r"negative_image_embeds: expected a float tensor"),
        (
            {"image_embeds": torch.zeros(2, 32), "negative_image_embeds": torch.zeros(1, 32)},
            "negative_image_embeds: expected 2 rows",
        ),
        ({**embeds(), "strength": 0.5}, "strength: expected only together with image"),
        ({**embeds(), "image": photo(), "strength": 2}, "strength: expected a number from 0"),
        (
            {**embeds(), "image": [photo()] * 3},
            "image: expected 1 or 2 pictures, given '3 pictures'",
        ),
        ({**embeds(), "height": 0}, "height: expected a whole number"),
        (
            {**embeds(), "height": 16, "width": 16, "latents": torch.zeros(2, 4, 4, 4)},
            "latents: ex",
        ),
        ({**embeds(), "prompt": "a cat"}, "prompt: this model has no such argument"),
        ({**embeds(), "mask_image": photo()}, "mask_image: this decoder is not one for inpainting"),
    ],
)
def test_wrong_arguments(own, call, message):
    with pytest.raises(RequestError, match=message):
        own()(**{"num_inference_steps": 2, **call})


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("unet", {"in_channels": 8}, r"in_channels 8, .*expected 4 or 9 \(for inpainting\)"),
        ("unet", {"out_channels": 3}, "out_channels 3 do not fit a movq of 4 latent channels"),
        ("unet", {"addition_embed_type": None}, "addition_embed_type is None, expected 'image'"),
        ("unet", {"class_embed_type": "timestep"}, "class_embed_type is 'timestep', expected None"),
        ("movq", {"lookup_from_codebook": True}, "lookup_from_codebook is true"),
        ("movq", {"out_channels": 4}, "movq: in_channels 3, out_channels 4, vq_embed_dim 4"),
        ("scheduler", {"beta_schedule": "steep"}, "beta_schedule"),
    ],
)
def test_folders_that_are_refused(tmp_path, part, change, message):
    made = kandinsky_folders.write(tmp_path / "d")
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    config = json.loads((made / part / name).read_text())
    (made / part / name).write_text(json.dumps({**config, **change}))
    with pytest.raises(ConfigError, match=message):
        pyengine.from_pretrained(made, device="cpu")


def test_command_line(folder, capsys):
    assert main(["info", str(folder())]) == 0
    shown = capsys.readouterr().out
    assert "KandinskyV22Pipeline" in shown
    assert "num_vq_embeddings 29" in shown
    assert main(["info", str(folder()), "--plan"]) == 0
    assert "movq" in capsys.readouterr().out
    assert main(["generate", "-m", str(folder())]) != 0
    assert "image_embeds: expected" in capsys.readouterr().err
