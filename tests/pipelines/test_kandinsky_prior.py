"""Kandinsky 2.2's prior against diffusers' pipeline over the same checkpoint."""

import json

import diffusers
import kandinsky_folders
import numpy as np
import pytest
import torch
from pairs import generators
from PIL import Image
from safetensors.torch import load_file, save_file

import pyengine
from pyengine.cli import main
from pyengine.errors import CheckpointError, ConfigError, RequestError

PROMPTS = ["a photo of the red cat", "the dog"]
#: Relative L2 of embeddings: so many steps of a network that is held to 1e-4.
LIMIT = 1e-3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return kandinsky_folders.write_prior(tmp_path_factory.mktemp("prior") / "p")


@pytest.fixture(scope="module")
def own(folder):
    return pyengine.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def pipe(folder):
    made = diffusers.KandinskyV22PriorPipeline.from_pretrained(folder)
    made.set_progress_bar_config(disable=True)
    return made


def check(got, want):
    for name in ("image_embeds", "negative_image_embeds"):
        mine, other = (torch.as_tensor(getattr(output, name)) for output in (got, want))
        assert mine.shape == other.shape
        assert float((mine - other).norm() / other.norm()) < LIMIT, name


# --- diffusers' embeddings ------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [2, 5, 20, 50])
def test_embeddings_are_diffusers(own, pipe, steps):
    call = {"num_inference_steps": steps}
    want = pipe(PROMPTS, generator=generators([7, 8]), **call)
    assert want.image_embeds.std() > 0.1
    check(own(PROMPTS, generator=generators([7, 8]), **call), want)


@pytest.mark.parametrize(
    "call",
    [
        {"guidance_scale": 1.0},
        {"guidance_scale": 2.5, "negative_prompt": ["in", "and of ing"]},
        {"num_images_per_prompt": 2, "negative_prompt": ["a", "dog"]},
        {"num_images_per_prompt": 3},
        {"output_type": "np"},
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_arguments_are_diffusers(own, pipe, call, shared):
    count = 2 * call.get("num_images_per_prompt", 1) * (2 if "negative_prompt" in call else 1)
    seed = 5 if shared else list(range(count))
    call = {"num_inference_steps": 6, **call}
    got = own(PROMPTS, generator=generators(seed), **call)
    want = pipe(PROMPTS, generator=generators(seed), **call)
    check(got, want)
    assert type(got.image_embeds) is type(want.image_embeds)
    embeds, negative = own(PROMPTS, generator=generators(seed), return_dict=False, **call)
    assert np.array_equal(embeds, got["image_embeds"])
    assert np.array_equal(negative, got["negative_image_embeds"])


def test_given_latents(own, pipe):
    latents = torch.randn(2, kandinsky_folders.WIDTH, generator=generators(1))
    call = {"num_inference_steps": 4, "latents": latents}
    check(
        own(PROMPTS, generator=generators([1, 2]), **call),
        pipe(PROMPTS, generator=generators([1, 2]), **call),
    )


def test_a_long_prompt_is_cut_and_said(own, pipe):
    text = "the cat " * 60
    with pytest.warns(UserWarning, match="the prompt was cut to 77 tokens; this was left out: "):
        got = own(text, generator=generators([1]), num_inference_steps=4)
    check(got, pipe(text, generator=generators([1]), num_inference_steps=4))


PIXELS = np.random.default_rng(0).integers(0, 256, (45, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "call",
    [
        {},
        {"num_images_per_prompt": 2},
        {"negative_prompt": "a dog"},
        {"negative_prior_prompt": "blue"},
        {"negative_prior_prompt": "a", "negative_prompt": "dog"},
    ],
)
def test_interpolation_is_diffusers(own, pipe, call):
    items = [
        "a red cat",
        Image.fromarray(PIXELS),
        torch.rand(1, 3, 32, 32, generator=generators(3)),
    ]
    call = {
        "images_and_prompts": items,
        "weights": [0.3, 0.5, -0.2],
        "num_inference_steps": 5,
        **call,
    }
    check(
        own.interpolate(generator=generators(4), **call),
        pipe.interpolate(generator=generators(4), **call),
    )


def test_saved_again_it_is_the_same_to_both(own, tmp_path):
    own.save_pretrained(tmp_path / "saved")
    again = pyengine.from_pretrained(tmp_path / "saved", device="cpu")
    want = own(PROMPTS, seed=3, num_inference_steps=4)
    assert torch.equal(
        again(PROMPTS, seed=3, num_inference_steps=4).image_embeds, want.image_embeds
    )
    made = diffusers.KandinskyV22PriorPipeline.from_pretrained(tmp_path / "saved")
    made.set_progress_bar_config(disable=True)
    check(want, made(PROMPTS, generator=generators([3, 4]), num_inference_steps=4))


def test_its_embeddings_make_pictures(own, tmp_path):
    decoder = pyengine.from_pretrained(kandinsky_folders.write(tmp_path / "d"), device="cpu")
    call = {"num_inference_steps": 3, "height": 16, "width": 16, "output_type": "pt"}
    by_name = own(PROMPTS, seed=1)
    pictures = decoder(by_name.image_embeds, by_name.negative_image_embeds, seed=1, **call).images
    assert pictures.shape == (2, 3, 16, 16)
    assert torch.equal(pictures, decoder(**by_name, seed=1, **call).images)  # diffusers' way


# --- bits -----------------------------------------------------------------------------------------


def test_the_same_bits_alone_and_in_a_batch(own):
    scales, negatives, prompts = [4.0, 1.0, 3.0], ["dog", "", "blue in the"], [*PROMPTS, "a"]
    call = {"num_inference_steps": 5}
    together = own(prompts, negatives, seed=[5, 6, 7], guidance_scale=scales, **call)
    assert together.seeds == [5, 6, 7]
    for i, prompt in enumerate(prompts):
        alone = own(prompt, negatives[i], seed=5 + i, guidance_scale=scales[i], **call)
        assert torch.equal(alone.image_embeds[0], together.image_embeds[i])
        assert torch.equal(alone.negative_image_embeds[0], together.negative_image_embeds[i])
    alone, together = own("a", seed=7, **call), own(prompts, seed=5, **call)
    assert torch.equal(alone.image_embeds[0], together.image_embeds[2])
    assert torch.equal(alone.negative_image_embeds[0], together.negative_image_embeds[2])


def test_the_same_bits_on_any_number_of_threads(own, use_threads):
    results = []
    for threads in (1, 3):
        use_threads(threads)
        results.append(own(PROMPTS, "dog", seed=5, num_inference_steps=5))
    assert torch.equal(*(result.image_embeds for result in results))
    assert torch.equal(*(result.negative_image_embeds for result in results))


def test_jobs_of_several_calls_in_one_step(own):
    """Other prompts, lengths of runs, scales and positions, each with the bits it has alone."""
    calls = [
        {"prompt": PROMPTS[0], "seed": 1, "num_inference_steps": 4},
        {"prompt": PROMPTS[1], "seed": 2, "num_inference_steps": 3, "guidance_scale": 1.0},
        {"prompt": "a", "seed": 3, "num_inference_steps": 5, "guidance_scale": 2.0},
    ]
    alone = [own(**call).image_embeds[0] for call in calls]
    jobs = []
    for call in calls:
        jobs += own.prepare(own.request(**call))
        own.step([job for job in jobs if job.active])
    while any(job.active for job in jobs):
        own.step([job for job in jobs if job.active])
    for job, want in zip(jobs, alone, strict=True):
        assert torch.equal(own.finish(job), want)


def test_a_callback_sees_and_changes_the_embeddings(own):
    seen = []

    def look(pipe, i, t, tensors):
        seen.append((i, tuple(tensors["latents"].shape)))
        return {"latents": torch.zeros_like(tensors["latents"])} if i == 2 else tensors

    result = own(PROMPTS, seed=1, num_inference_steps=3, callback_on_step_end=look)
    assert seen == [(i, (2, kandinsky_folders.WIDTH)) for i in range(3)]
    assert torch.equal(result.image_embeds, own.prior.clip_mean.expand(2, -1))


# --- errors, command line -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "prompt: expected a text or a list of texts"),
        ({"prompt": "a", "output_type": "pil"}, "output_type: expected one of pt, np"),
        ({"prompt": "a", "num_inference_steps": 1}, "num_inference_steps: expected a whole number"),
        ({"prompt": "a", "negative_prompt": ["a", "b"]}, "negative_prompt: expected"),
        ({"prompt": "a", "guidance_scale": [1, 2]}, "guidance_scale"),
        ({"prompt": "a", "latents": torch.zeros(1, 31)}, r"latents: expected shape \[1, 32\]"),
        ({"prompt": "a", "generator": [torch.Generator()] * 2}, "generator: expected one"),
        ({"prompt": "a", "height": 64}, "height: this model has no such argument"),
        ({"prompt": "\ud800"}, "lone surrogate"),
    ],
)
def test_wrong_arguments(own, call, message):
    with pytest.raises(RequestError, match=message):
        own(**call)


@pytest.mark.parametrize(
    ("items", "weights", "message"),
    [
        ([], [], "images_and_prompts: expected a list"),
        (["a", "b"], [1.0], "weights: expected a list of 2 numbers"),
        (["a"], [float("nan")], "weights: expected a number"),
        ([3], [1.0], "images_and_prompts: expected texts, PIL pictures and tensors, given 'int'"),
        ([torch.zeros(1, 3, 8, 8)], [1.0], "pixel_values: expected"),
        (["a", torch.zeros(2, 3, 32, 32)], [1, 1], "images_and_prompts: expected one picture each"),
    ],
)
def test_wrong_mixtures(own, items, weights, message):
    with pytest.raises(RequestError, match=message):
        own.interpolate(items, weights, num_inference_steps=2)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("prior/config.json", {"num_embeddings": 60}, "num_embeddings is 60, expected 77"),
        ("prior/config.json", {"added_emb_type": None}, "added_emb_type is None, expected 'prd'"),
        ("image_encoder/config.json", {"projection_dim": 20}, "projection_dim is 20, expected 32"),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}, "prediction_type 'eps"),
        ("scheduler/scheduler_config.json", {"variance_type": "odd"}, "variance_type"),
        ("image_processor/preprocessor_config.json", {"do_resize": False}, "do_resize"),
        ("image_processor/preprocessor_config.json",
         {"crop_size": {"height": 24, "width": 24}}, "crop_size 24x24, expected"),
    ],
)  # fmt: skip
def test_folders_that_are_refused(tmp_path, file, change, message):
    made = kandinsky_folders.write_prior(tmp_path / "p")
    config = json.loads((made / file).read_text())
    (made / file).write_text(json.dumps({**config, **change}))
    with pytest.raises(ConfigError, match=message):
        pyengine.from_pretrained(made, device="cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clip_std", "1 missing: 'clip_std'"),
        ("positional_embedding", r"misshapen.*'positional_embedding' is \[1, 2, 3\]"),
    ],
)
def test_tensors_that_are_refused(tmp_path, name, message):
    made = kandinsky_folders.write_prior(tmp_path / "p")
    file = made / "prior" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    if "missing" in message:
        del tensors[name]
    else:
        tensors[name] = torch.zeros(1, 2, 3)
    save_file(tensors, file)
    with pytest.raises(CheckpointError, match=message):
        pyengine.from_pretrained(made, device="cpu")


def test_command_line(folder, capsys):
    assert main(["info", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "KandinskyV22PriorPipeline" in shown
    assert "scheduler: unclip" in shown
    assert main(["generate", "a cat", "-m", str(folder)]) != 0
    assert "a KandinskyV22PriorPipeline makes embeddings, not pictures" in capsys.readouterr().err
