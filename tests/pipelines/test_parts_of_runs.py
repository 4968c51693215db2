"""Runs that are cut, given by their steps or begun elsewhere, against diffusers' pipelines."""

import pytest
import torch
from pairs import LEAST_PSNR, REFERENCES, generators, psnr

from pyengine.errors import RequestError

STEPS = {"num_inference_steps": 8}
SIZE = {"height": 48, "width": 80}


# --- base and refiner -----------------------------------------------------------------------------


def handed_over(pair, share, *, scheduler=None, task="image_to_image", seed=2, **call):
    """Both pipelines' pictures of a run that is cut at `share` and ended by another call."""
    p, results = pair("sdxl"), []
    for theirs in (True, False):
        base, refiner = (p.text_to_image, getattr(p, task)) if theirs else (p.own, p.own)
        own = {} if theirs else {"scheduler": scheduler}
        before = p.text_to_image.scheduler, getattr(p, task).scheduler
        if theirs and scheduler:
            cls, extra = REFERENCES[scheduler]
            for pipe in (base, refiner):
                pipe.scheduler = cls.from_config(pipe.scheduler.config, **extra)
        try:
            latents = base(
                "a cat",
                denoising_end=share,
                output_type="latent",
                **own,
                **STEPS,
                **SIZE,
                generator=generators(seed),
            ).images
            sizes = SIZE if task == "inpainting" else {}
            second = {"image": latents, "denoising_start": share, **own, **sizes, **STEPS, **call}
            images = refiner("a cat", generator=generators(seed), output_type="np", **second).images
            results.append((latents, images))
        finally:
            p.text_to_image.scheduler, getattr(p, task).scheduler = before
    return results


@pytest.mark.parametrize("scheduler", [None, "ddim", "heun", "dpmpp_2m", "euler_ancestral"])
@pytest.mark.parametrize("share", [0.8, 0.35])
def test_a_run_that_another_call_ends(pair, scheduler, share):
    (latents, want), (own, got) = handed_over(pair, share, scheduler=scheduler)
    torch.testing.assert_close(own, latents, rtol=1e-3, atol=1e-3)
    assert psnr(want, got) >= LEAST_PSNR


def test_strength_does_not_count_where_a_run_goes_on(pair):
    (_, want), (_, got) = handed_over(pair, 0.6, strength=0.1)
    assert psnr(want, got) >= LEAST_PSNR


def test_a_run_that_goes_on_while_inpainting(pair, mask):
    (_, want), (_, got) = handed_over(pair, 0.6, task="inpainting", mask_image=mask)
    assert psnr(want, got) >= LEAST_PSNR


@pytest.mark.parametrize("task", ["image_to_image", "inpainting"])
def test_a_picture_as_where_a_run_goes_on(pair, photo, mask, task):
    """It is encoded, and no noise is added to it."""
    more = {"mask_image": mask, **SIZE} if task == "inpainting" else {}
    pair("sdxl").check(task=task, image=photo, denoising_start=0.5, **STEPS, **more)


def test_both_ends_cut(pair, photo):
    call = {"image": photo, "denoising_start": 0.3, "denoising_end": 0.7, **STEPS}
    pair("sdxl").check(task="image_to_image", **call)
    own = pair("sdxl").own
    report = own("a cat", **call, seed=1).report
    assert report.steps < 5
    assert report.strength is None
    assert (own.denoising_start, own.denoising_end) == (0.3, 0.7)


@pytest.mark.parametrize("value", [-0.1, 1.5, "half", float("nan"), True])
@pytest.mark.parametrize("name", ["denoising_start", "denoising_end"])
def test_shares_that_are_none(pair, photo, name, value):
    with pytest.raises(RequestError, match=f"^{name}: "):
        pair("sdxl").own("a cat", image=photo, **{name: value}, **STEPS)


def test_a_start_after_the_end(pair, photo):
    with pytest.raises(RequestError, match="denoising_start: expected less than denoising_end"):
        pair("sdxl").own("a cat", image=photo, denoising_start=0.7, denoising_end=0.7, **STEPS)


def test_noisy_latents_in_the_place_of_a_picture(pair, photo):
    """SDXL begins with them as they are; the picture tells the size alone."""
    latents = torch.randn(1, 4, 6, 10, generator=generators(1))
    pair("sdxl").check(task="image_to_image", image=photo, latents=latents, strength=0.5, **STEPS)


# --- steps by hand --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
@pytest.mark.parametrize(
    ("scheduler", "how"),
    [
        ("ddpm", {"timesteps": [999, 700, 400, 50]}),
        ("euler", {"timesteps": [999, 700, 400, 50]}),
        ("euler", {"sigmas": [14.6, 5.0, 1.5, 0.3, 0.0]}),
        ("heun", {"timesteps": [999, 500, 20]}),
        ("dpmpp_2m", {"timesteps": [999, 800, 300, 20]}),
    ],
)
def test_steps_that_are_given(pair, name, scheduler, how):
    pair(name).check(scheduler=scheduler, **how)


def test_given_steps_are_thinned_by_strength(pair, photo):
    how = {"timesteps": [999, 800, 600, 400, 200, 50], "scheduler": "euler"}
    pair("sd1").check(task="image_to_image", image=photo, strength=0.5, **how)


@pytest.mark.parametrize("scheduler", ["ddim", "euler", "dpmpp_2m"])
def test_spacing_that_is_asked_for(pair, scheduler):
    """As with the key in the scheduler's config: where Lightning and Turbo models begin."""
    cls, extra = REFERENCES[scheduler]
    theirs = pair("sd1").text_to_image
    before = theirs.scheduler
    theirs.scheduler = cls.from_config(before.config, timestep_spacing="trailing", **extra)
    try:
        want = theirs("a cat", generator=generators(1), output_type="np", num_inference_steps=4)
    finally:
        theirs.scheduler = before
    own, seen = pair("sd1").own, []
    got = own(
        "a cat",
        seed=1,
        output_type="np",
        num_inference_steps=4,
        scheduler=scheduler,
        timestep_spacing="trailing",
        callback_on_step_end=lambda pipe, i, t, _: seen.append(t),
    )
    assert seen[0] == 999
    assert psnr(want.images, got.images) >= LEAST_PSNR


# --- consistency models ---------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.3, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("steps", [1, 4])
def test_lcm_image_to_image(pair, photo, strength, steps):
    pair("lcm_own").check(
        task="image_to_image", image=photo, strength=strength, num_inference_steps=steps
    )


def test_lcm_by_its_own_defaults(pair, photo):
    pair("lcm_own").check(task="text_to_image")
    pair("lcm_own").check(task="image_to_image", image=photo)
    result = pair("lcm_own").own("a cat", image=photo, seed=1)
    assert (result.report.steps, result.report.guidance_scale, result.report.strength) == (
        4,
        8.5,
        0.8,
    )


def test_lcm_with_steps_that_it_was_distilled_on(pair, photo):
    for call in ({"original_inference_steps": 100}, {"timesteps": [999, 619, 259]}):
        pair("lcm_own").check(**call)
    pair("lcm_own").check(
        task="image_to_image", image=photo, strength=0.6, original_inference_steps=100
    )


def test_lcm_from_noisy_latents(pair, photo):
    latents = torch.randn(1, 4, 6, 10, generator=generators(1))
    pair("lcm_own").check(task="image_to_image", image=photo, latents=latents, strength=0.5)


def test_an_lcm_that_a_stable_diffusion_pipeline_runs_drops_steps(pair, photo):
    """The class of the pipeline decides, not the scheduler's."""
    pair("lcm").check(task="image_to_image", image=photo, strength=0.5, **STEPS)
