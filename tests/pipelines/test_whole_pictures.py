"""Whole pictures against diffusers' pipelines: every sampler, odd sizes, every argument."""

import json
import shutil

import diffusers
import numpy as np
import pytest
import tiny
import torch
from pairs import DETERMINISTIC, LEAST_PSNR, OTHERS, RANDOM, Pair, generators, psnr

import pyengine
from pyengine.errors import ConfigError

MODELS = ("sd1", "sd2", "sdxl")
ODD = {"height": 56, "width": 72}  # latents of 7 x 9, which no level of the U-Net halves evenly


@pytest.mark.parametrize("sampler", OTHERS)
def test_other_samplers(pair, sampler):
    pair("sd1").check(scheduler=sampler, num_inference_steps=7, height=32, width=40)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("steps", [5, 20, 50])
def test_the_checkpoints_own_sampler(pair, model, steps):
    pair(model).check(num_inference_steps=steps, **ODD)


@pytest.mark.parametrize("sampler", DETERMINISTIC)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("steps", [5, 20, 50])
def test_deterministic_samplers(pair, model, sampler, steps):
    pair(model).check(scheduler=sampler, num_inference_steps=steps, height=32, width=40)


@pytest.mark.parametrize("sampler", RANDOM)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("steps", [5, 20])
def test_samplers_that_draw_noise(pair, model, sampler, steps):
    pair(model).check(scheduler=sampler, num_inference_steps=steps, height=32, width=40)


@pytest.mark.parametrize("sampler", RANDOM)
def test_samplers_that_draw_noise_at_50_steps(pair, sampler):
    pair("sd1").check(scheduler=sampler, num_inference_steps=50, height=32, width=40)


def test_a_sampler_with_its_own_defaults_where_the_checkpoint_saved_none(pair):
    """DDIM clips unless a config says otherwise; five steps of that are not chaotic yet."""
    pair("sdxl_bare").check(scheduler="ddim", num_inference_steps=5)


def test_ddim_with_eta(pair):
    pair("sd1").check(num_inference_steps=8, eta=0.7)


def test_pndm_as_old_checkpoints_have_it(pair, tmp_path):
    from pairs import Pair

    scheduler = diffusers.PNDMScheduler(
        **{k: v for k, v in tiny.SD1_SCHEDULER.items() if k != "clip_sample"}, skip_prk_steps=True
    )
    old = Pair(tiny.write_sd1(tmp_path / "old", unet={"layers_per_block": 1}, scheduler=scheduler))
    old.check(num_inference_steps=12)


@pytest.mark.parametrize("model", MODELS)
def test_a_distilled_guidance_of_one_runs_one_row(pair, model):
    pair(model).check(num_inference_steps=4, guidance_scale=1.0)
    steps = []
    own = pair(model).own
    original = own.unet.forward

    def spy(sample, *args, **kwargs):
        steps.append(len(sample))
        return original(sample, *args, **kwargs)

    own.unet.forward = spy
    try:
        own("a cat", seed=1, num_inference_steps=2, guidance_scale=1.0)
        own("a cat", seed=1, num_inference_steps=2, guidance_scale=1.5)
    finally:
        del own.unet.forward
    assert steps == [1, 1, 2, 2]


@pytest.mark.parametrize("guidance", [1.5, 8.5])
def test_guidance_as_an_input_of_the_model(pair, guidance):
    pair("lcm").check(num_inference_steps=4, guidance_scale=guidance, **ODD)


def test_guidance_as_an_input_against_the_lcm_pipeline(pair):
    parts = pair("lcm").text_to_image.components
    reference = diffusers.LatentConsistencyModelPipeline(**parts, requires_safety_checker=False)
    reference.set_progress_bar_config(disable=True)
    call = {"num_inference_steps": 4, "guidance_scale": 8.5, "output_type": "np"}
    expected = reference("a red heart", generator=generators(3), **call).images
    got = pair("lcm").own("a red heart", generator=generators(3), **call).images
    assert psnr(expected, got) >= LEAST_PSNR


def test_a_checkpoint_of_the_lcm_pipeline(pair, tmp_path):
    folder = tmp_path / "lcm"
    shutil.copytree(pair("lcm").folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"] = "LatentConsistencyModelPipeline"
    (folder / "model_index.json").write_text(json.dumps(index))
    published = Pair(folder)
    assert type(published.text_to_image) is diffusers.LatentConsistencyModelPipeline
    published.check()  # its own defaults: 4 steps, guidance 8.5
    assert published.own("a cat", seed=1).report.evaluations == 4


# --- a checkpoint's own defaults ------------------------------------------------------------------


@pytest.mark.parametrize("model", ["sd1", "sdxl"])
def test_defaults_in_the_checkpoints_folder(pair, tmp_path, model):
    folder = tmp_path / "model"
    shutil.copytree(pair(model).folder, folder)
    path = folder / "pyengine.json"
    path.write_text('{"num_inference_steps": 3, "guidance_scale": 2.5}')
    changed = Pair(folder)
    report = changed.own("a cat", seed=1).report
    assert (report.steps, report.guidance_scale) == (3, 2.5)
    assert changed.own("a cat", seed=1, num_inference_steps=2).report.steps == 2
    expected = pair(model).compare(num_inference_steps=3, guidance_scale=2.5)[0]
    assert psnr(changed.own("a red heart", seed=7, output_type="np").images, expected) > LEAST_PSNR
    assert changed.text_to_image  # diffusers loads the folder all the same
    for bad in ("[]", '{"steps": 3}', '{"guidance_scale": -1}', '{"strength": 2}', "{"):
        path.write_text(bad)
        with pytest.raises(ConfigError, match=r"pyengine\.json"):
            pyengine.from_pretrained(folder)


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "call",
    [
        {"negative_prompt": "blue, a dog"},
        {"negative_prompt": ""},
        {"guidance_rescale": 0.7},
        {"clip_skip": 1},
        {"num_images_per_prompt": 3},
        {"guidance_scale": 0.0},
    ],
    ids=str,
)
def test_arguments(pair, model, call):
    pair(model).check(num_inference_steps=4, **call)


@pytest.mark.parametrize("model", MODELS)
def test_prompts_and_pictures_of_each(pair, model):
    pair(model).check(
        ["a red heart", "two cats"],
        negative_prompt=["a dog", "a blue sun"],
        num_images_per_prompt=2,
        num_inference_steps=3,
        seed=[5, 6, 7, 8],
        scheduler="euler_ancestral",
    )


def test_one_generator_is_drawn_from_for_the_whole_batch(pair):
    pair("sd1").check(
        ["a red heart", "two cats"],
        num_images_per_prompt=2,
        num_inference_steps=3,
        seed=5,
        scheduler="euler_ancestral",
    )


@pytest.mark.parametrize("model", MODELS)
def test_latents_that_are_given(pair, model):
    noise = torch.randn(2, 4, 7, 9, generator=generators(11))
    pair(model).check(["a red heart", "two cats"], latents=noise, num_inference_steps=3, **ODD)


def test_a_seed_is_a_cpu_generator_with_that_seed(pair):
    expected, _, _ = pair("sd1").compare(num_inference_steps=3, seed=123)
    got = pair("sd1").own("a red heart", num_inference_steps=3, seed=123, output_type="np")
    assert psnr(expected, got.images) >= LEAST_PSNR
    assert got.seeds == [123]


def test_a_long_prompt_is_cut_and_what_was_cut_is_named(pair):
    prompt = "a red heart " * 30 + "and a xylophone"
    with pytest.warns(UserWarning, match="cut to 77 tokens.*xylophone"):
        pair("sd1").check(prompt, num_inference_steps=2)
    with pytest.warns(UserWarning, match="cut to 77"):
        result = pair("sd1").own(prompt, num_inference_steps=1, seed=0)
    assert "xylophone" in result.report.warnings[0]


@pytest.mark.parametrize(
    "call",
    [
        {"prompt_2": "two cats on a tree"},
        {"prompt_2": "two cats", "negative_prompt": "a dog", "negative_prompt_2": "the moon"},
        {"original_size": (40, 90), "crops_coords_top_left": (3, 4), "target_size": (64, 32)},
        {
            "negative_original_size": (20, 30),
            "negative_crops_coords_top_left": (1, 2),
            "negative_target_size": (16, 24),
        },
        {"clip_skip": 0},
    ],
    ids=str,
)
def test_arguments_of_sdxl(pair, call):
    pair("sdxl").check(num_inference_steps=4, **call)


def test_output_types(pair):
    own = pair("sd1").own
    call = {"seed": 4, "num_inference_steps": 2, "num_images_per_prompt": 2}
    pil, array, tensor, latents = (
        own("a cat", output_type=kind, **call).images for kind in ("pil", "np", "pt", "latent")
    )
    assert [p.size for p in pil] == [(64, 64)] * 2
    assert pil[0].mode == "RGB"
    assert array.shape == (2, 64, 64, 3)
    assert array.dtype == np.float32
    assert tensor.shape == (2, 3, 64, 64)
    assert latents.shape == (2, 4, 8, 8)
    assert np.array_equal(array.transpose(0, 3, 1, 2), tensor.numpy())
    assert np.array_equal(np.asarray(pil[1]), (array[1] * 255).round().astype(np.uint8))
    assert array.min() >= 0
    assert array.max() <= 1


def test_the_report(pair):
    report = pair("sd1").own("a cat", seed=1, num_inference_steps=3, scheduler="heun").report
    assert report.sampler == "heun"
    assert (report.steps, report.evaluations) == (3, 5)
    assert (report.height, report.width) == (64, 64)
    assert set(report.seconds) >= {"encode_prompt", "denoise", "decode", "total"}
    assert report.seconds["total"] >= report.seconds["denoise"] > 0
    assert {"conv2d", "linear", "attention", "sampler_step"} <= set(report.kernels)
    assert all(report.kernels.values())
    assert report.peak_memory > 1 << 20
    assert not report.interrupted
    assert report.warnings == []


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("model", ["sd1", "sdxl"])
def test_half_precision_is_as_close_to_float32_as_diffusers(pair, model, dtype):
    kind = getattr(torch, dtype)
    folder = pair(model).folder
    noise = torch.randn(1, 4, 8, 8, generator=generators(1))
    call = {"num_inference_steps": 5, "output_type": "np"}
    exact = pair(model).own("a red heart", latents=noise, **call).images
    own = pyengine.from_pretrained(folder, dtype=dtype, device="cpu")
    result = own("a red heart", latents=noise, **call)
    reference = diffusers.DiffusionPipeline.from_pretrained(folder, dtype=kind)
    reference.set_progress_bar_config(disable=True)
    theirs = reference("a red heart", latents=noise.to(kind), **call).images
    assert result.report.dtype == dtype
    assert psnr(result.images, exact) >= psnr(theirs, exact) - 3
