"""DeepFloyd IF's further stages against diffusers' IFSuperResolutionPipeline."""

import json

import diffusers
import if_folders
import numpy as np
import pytest
import torch
from pairs import LEAST_PSNR, generators, psnr
from PIL import Image

import pyengine
from pyengine import metadata
from pyengine.cli import main
from pyengine.errors import ConfigError, RequestError

PROMPTS = ["a photo of the red cat", "the dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return if_folders.write_super_resolution(tmp_path_factory.mktemp("super") / "if2")


@pytest.fixture(scope="module")
def own(folder):
    return pyengine.from_pretrained(folder, device="cpu")


def theirs(folder):
    pipe = diffusers.IFSuperResolutionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def small(count: int = 2, width: int = 8, height: int = 8) -> list[Image.Image]:
    draw = np.random.default_rng(4)
    sizes = (height, width, 3)
    return [Image.fromarray(draw.integers(0, 256, sizes, dtype=np.uint8)) for _ in range(count)]


@pytest.mark.parametrize("steps", [5, 20, 50])
def test_pictures_are_diffusers(folder, own, steps):
    call = {"num_inference_steps": steps, "output_type": "np", "image": small()}
    want = theirs(folder)(PROMPTS, generator=generators([7, 8]), **call).images
    got = own(PROMPTS, generator=generators([7, 8]), **call).images
    assert want.std() > 0.1
    assert psnr(want, got) >= LEAST_PSNR


@pytest.mark.parametrize(
    "call",
    [
        {"guidance_scale": 1.0, "noise_level": 0},
        {"guidance_scale": 6.5, "negative_prompt": ["in", "and of ing"], "noise_level": 999},
        {"num_images_per_prompt": 2, "negative_prompt": ["a", "a"]},
        {"height": 24, "width": 20, "image": small(2, 9, 7)},
        {"timesteps": [900, 640, 300, 20], "num_inference_steps": None},
    ],
)
def test_arguments_are_diffusers(folder, own, call):
    call = {"num_inference_steps": 8, "output_type": "np", "image": small(), **call}
    count = 2 * call.get("num_images_per_prompt", 1)
    their_call = {k: v for k, v in call.items() if v is not None}
    want = theirs(folder)(PROMPTS, generator=generators(list(range(count))), **their_call).images
    got = own(PROMPTS, generator=generators(list(range(count))), **call).images
    assert psnr(want, got) >= LEAST_PSNR


def test_what_a_noise_level_and_a_picture_do(own):
    call = {"seed": 3, "num_inference_steps": 4, "output_type": "pt"}
    pictures = small()
    drawn = own("a", image=pictures[0], **call).images
    for other in ({"image": pictures[1]}, {"image": pictures[0], "noise_level": 800}):
        assert (own("a", **call, **other).images - drawn).abs().max() > 0.05
    assert torch.equal(own("a", image=pictures[0], noise_level=250, **call).images, drawn)


def test_pictures_as_pil_arrays_and_tensors(own):
    call = {"seed": 3, "num_inference_steps": 2, "output_type": "pt"}
    picture = small(1)[0]
    array = np.asarray(picture).copy()
    tensor = torch.from_numpy(array).permute(2, 0, 1) / 255
    want = own("a", image=picture, **call).images
    for given in (array, array / 255, tensor, tensor[None], [picture]):
        assert torch.allclose(own("a", image=given, **call).images, want, atol=1e-6)


def test_both_stages(own, tmp_path):
    """The first stage's tensors are the second's pictures."""
    first = pyengine.from_pretrained(if_folders.write(tmp_path / "if"), device="cpu")
    call = {"num_inference_steps": 3, "output_type": "pt"}
    seeds = [5, 6]
    low = first(PROMPTS, seed=seeds, **call).images
    high = own(PROMPTS, image=low, seed=seeds, **call).images
    assert high.shape == (2, 3, 32, 32)
    alone = own(PROMPTS[1], image=first(PROMPTS[1], seed=6, **call).images, seed=6, **call).images
    assert torch.equal(alone[0], high[1])


# --- bits -----------------------------------------------------------------------------------------


def test_the_same_bits_alone_and_in_a_batch(own):
    call = {"num_inference_steps": 4, "output_type": "pt"}
    pictures, scales = small(3), [4.0, 1.0, 2.5]
    prompts = [*PROMPTS, "a"]
    together = own(prompts, image=pictures, seed=[5, 6, 7], guidance_scale=scales, **call).images
    for i, prompt in enumerate(prompts):
        alone = own(prompt, image=pictures[i], seed=5 + i, guidance_scale=scales[i], **call).images
        assert torch.equal(alone[0], together[i])


def test_the_same_bits_on_any_number_of_threads(own, use_threads):
    results = []
    for threads in (1, 3):
        use_threads(threads)
        call = {"seed": 5, "num_inference_steps": 3, "output_type": "pt"}
        results.append(own(PROMPTS, image=small(), **call).images)
    assert torch.equal(*results)


def test_jobs_of_several_calls_in_one_step(own):
    pictures = small(4)
    calls = [
        {"prompt": "a", "seed": 1, "num_inference_steps": 4},
        {"prompt": "the", "seed": 2, "num_inference_steps": 3, "guidance_scale": 1.0},
        {"prompt": "cat", "seed": 3, "num_inference_steps": 5, "noise_level": 30},
        {"prompt": "dog", "seed": 4, "num_inference_steps": 2, "negative_prompt": "red"},
    ]
    calls = [{**call, "image": picture} for call, picture in zip(calls, pictures, strict=True)]
    alone = [own(output_type="pt", **call).images[0] for call in calls]
    jobs = []
    for call in calls:
        jobs += own.prepare(own.request(output_type="pt", **call))
        own.step([job for job in jobs if job.active])
    while any(job.active for job in jobs):
        own.step([job for job in jobs if job.active])
    for job, want in zip(jobs, alone, strict=True):
        assert torch.equal(own.finish(job), want)


# --- errors, command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "image: expected a small picture, or a list of them"),
        ({"image": small(3)}, "image: expected 1 or 2 pictures, given '3 pictures'"),
        ({"image": "cat.png"}, "image: expected a PIL picture"),
        ({"image": small(1), "noise_level": 1000}, "noise_level: expected a whole number from 0"),
        ({"image": small(1), "noise_level": -1}, "noise_level: expected a whole number from 0"),
        ({"image": small(1), "noise_level": 2.5}, "noise_level: expected a whole number from 0"),
        ({"image": small(1), "strength": 0.5}, "strength: expected only together with original"),
        ({"image": torch.full((3, 8, 8), float("nan"))}, "image: expected"),
    ],
)
def test_wrong_arguments(own, call, message):
    with pytest.raises(RequestError, match=message):
        own(PROMPTS, num_inference_steps=2, **call)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("unet", {"in_channels": 3}, "in_channels 3, out_channels 6: expected 6, and 3, or 6"),
        ("unet", {"class_embed_type": None}, "class_embed_type None does not fit an IFSuperRes"),
        (
            "image_noising_scheduler",
            {"beta_schedule": "steep"},
            "beta_schedule must be .* found 'steep'",
        ),
        ("image_noising_scheduler", {"_class_name": "Nothing"}, "_class_name is 'Nothing'"),
    ],
)
def test_folders_that_are_refused(tmp_path, part, change, message):
    made = if_folders.write_super_resolution(tmp_path / "if")
    name = "config.json" if part == "unet" else "scheduler_config.json"
    config = json.loads((made / part / name).read_text())
    (made / part / name).write_text(json.dumps({**config, **change}))
    with pytest.raises(ConfigError, match=message):
        pyengine.from_pretrained(made, device="cpu")


def test_saved_again_it_is_the_same_to_both(own, tmp_path):
    own.save_pretrained(tmp_path / "saved")
    again = pyengine.from_pretrained(tmp_path / "saved", device="cpu")
    call = {"num_inference_steps": 3, "output_type": "np", "image": small()}
    want = own(PROMPTS, seed=4, **call).images
    assert (again(PROMPTS, seed=4, **call).images == want).all()
    drawn = theirs(tmp_path / "saved")(PROMPTS, generator=generators([4, 5]), **call).images
    assert psnr(drawn, want) >= LEAST_PSNR


def test_command_line(folder, tmp_path, capsys):
    place, source = tmp_path / "cat.png", tmp_path / "small.png"
    small(1)[0].save(source)
    made = ["generate", "the red cat", "-m", str(folder), "-o", str(place), "--steps", "3"]
    made += ["--init-image", str(source), "--seed", "5", "--noise-level", "100"]
    assert main(made) == 0
    settings = metadata.read(place)
    assert (settings.noise_level, settings.guidance_scale, settings.width) == (100, 4.0, 32)
    assert settings.init_image is not None
    again = tmp_path / "again.png"
    made = ["generate", "--from", str(place), "-m", str(folder), "-o", str(again)]
    assert main([*made, "--init-image", str(source)]) == 0
    assert again.read_bytes() == place.read_bytes()
    capsys.readouterr()
    assert main(["info", str(folder)]) == 0
    assert "image_noising_scheduler" in capsys.readouterr().out
    assert main(["info", str(folder), "--plan"]) == 0
