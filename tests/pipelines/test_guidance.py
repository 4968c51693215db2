"""Guidance for each picture, and callbacks that change a run, against diffusers' pipelines."""

import diffusers
import numpy as np
import pytest
import torch
from diffusers.callbacks import SDCFGCutoffCallback, SDXLCFGCutoffCallback
from pairs import LEAST_PSNR, psnr

from pyengine.errors import RequestError

STEPS = {"num_inference_steps": 5}
SIZE = {"height": 48, "width": 80}
SHOWN = {
    "sd1": ("prompt_embeds", "negative_prompt_embeds"),
    "sdxl": ("prompt_embeds", "add_text_embeds", "add_time_ids"),
}
HOLES = ("mask", "masked_image_latents")


# --- one guidance scale for each picture ----------------------------------------------------------


@pytest.mark.parametrize("name", ["sd1", "sdxl", "lcm"])
@pytest.mark.parametrize("rescale", [0.0, 0.6])
def test_each_picture_has_its_own_guidance(pair, name, rescale):
    """The bits of the picture alone, whether guided or not."""
    own = pair(name).own
    scales = [7.5, 1.0, 3.0, 0.0]
    call = {"guidance_rescale": rescale, "output_type": "latent", **STEPS}
    if name == "lcm":
        call["num_inference_steps"] = 4
    for given in (scales, np.array(scales), torch.tensor(scales), tuple(scales)):
        together = own("a cat", guidance_scale=given, num_images_per_prompt=4, seed=3, **call)
        if given is scales:
            first = together
        assert torch.equal(together.images, first.images)
    assert first.report.guidance_scale == tuple(scales)
    for k, scale in enumerate(scales):
        alone = own("a cat", guidance_scale=scale, seed=3 + k, **call)
        assert torch.equal(first.images[k], alone.images[0]), scale
        assert alone.report.guidance_scale == scale


def test_a_guidance_for_each_prompt(pair):
    own = pair("sd1").own
    call = {"seed": 3, "num_images_per_prompt": 2, "output_type": "latent", **STEPS}
    got = own(["a cat", "a dog"], guidance_scale=[2, 5], **call)
    want = own(["a cat", "a dog"], guidance_scale=[2, 2, 5, 5], **call)
    assert torch.equal(got.images, want.images)
    equal = own(["a cat", "a dog"], guidance_scale=[4, 4], **call)
    assert equal.report.guidance_scale == 4
    with pytest.raises(RequestError, match="guidance_scale: expected a number, or one per picture"):
        own(["a cat", "a dog"], guidance_scale=[1, 2, 3], **call)


@pytest.mark.parametrize("scale", [0, 0.5, 1.0, 1.001])
def test_guidance_from_zero_to_one_is_none(pair, scale):
    pair("sd1").check(guidance_scale=scale, **STEPS)


# --- callbacks ------------------------------------------------------------------------------------


def run_both(pair, name, make, *, task="text_to_image", inputs=("latents",), **call):
    """Both pipelines' pictures with a callback of make()'s each."""
    results = []
    theirs = getattr(pair(name), task)
    for pipe in (theirs, pair(name).own):
        sizes = {} if pipe is theirs and task == "image_to_image" else SIZE
        results.append(
            pipe(
                "a red heart",
                generator=torch.Generator().manual_seed(4),
                output_type="np",
                callback_on_step_end=make(),
                callback_on_step_end_tensor_inputs=list(inputs),
                **{**STEPS, **sizes, **call},
            ).images
        )
    return results


def alike(results):
    assert psnr(*results) >= LEAST_PSNR


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
@pytest.mark.parametrize("task", ["text_to_image", "image_to_image", "inpainting"])
def test_a_callback_sees_the_tensors_that_diffusers_shows(pair, photo, mask, name, task):
    holes = HOLES if task == "inpainting" else ()
    pictures = {"image": photo, "strength": 0.9} if task != "text_to_image" else {}
    if task == "inpainting":
        pictures["mask_image"] = mask
    seen = []

    def make():
        mine = []
        seen.append(mine)

        def look(pipe, step, timestep, tensors):
            mine.append(
                (
                    step,
                    float(timestep),
                    {k: v.clone() for k, v in tensors.items()},
                    pipe.guidance_scale,
                    pipe.num_timesteps,
                    pipe.do_classifier_free_guidance,
                )
            )
            return {}

        return look

    alike(
        run_both(pair, name, make, task=task, inputs=("latents", *SHOWN[name], *holes), **pictures)
    )
    theirs, ours = seen
    assert len(theirs) == len(ours) > 3
    for want, got in zip(theirs, ours, strict=True):
        assert want[:2] == got[:2]
        assert want[3:] == got[3:]
        assert want[2].keys() == got[2].keys()
        for key in want[2]:
            torch.testing.assert_close(got[2][key], want[2][key], rtol=1e-3, atol=1e-3)


def cut_off(keys, at=2):
    """diffusers' recipe of dynamic guidance."""

    def make():
        def cut(pipe, step, timestep, tensors):
            if step == at:
                for key in keys:
                    tensors[key] = tensors[key].chunk(2)[-1]
                pipe._guidance_scale = 0.0
            return tensors

        return cut

    return make


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
@pytest.mark.parametrize("call", [{}, {"guidance_rescale": 0.7}, {"num_images_per_prompt": 3}])
def test_the_recipe_of_dynamic_guidance(pair, name, call):
    keys = tuple(k for k in SHOWN[name] if "negative" not in k)
    results = run_both(pair, name, cut_off(keys), inputs=keys, **call)
    alike(results)
    plain = (
        pair(name)
        .own(
            "a red heart",
            generator=torch.Generator().manual_seed(4),
            output_type="np",
            **STEPS,
            **SIZE,
            **call,
        )
        .images
    )
    assert psnr(results[1], plain) < 100


@pytest.mark.parametrize("name", ["sd1", "inpaint", "sdxl", "inpaint_xl"])
def test_the_recipe_while_inpainting(pair, photo, mask, name):
    keys = tuple(k for k in SHOWN["sdxl" if "xl" in name else "sd1"] if "negative" not in k)
    alike(
        run_both(
            pair,
            name,
            cut_off((*keys, *HOLES)),
            inputs=(*keys, *HOLES),
            task="inpainting",
            image=photo,
            mask_image=mask,
            strength=0.9,
        )
    )


@pytest.mark.parametrize(
    ("name", "callback"),
    [
        ("sd1", SDCFGCutoffCallback(cutoff_step_ratio=0.4)),
        ("sd1", SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=1)),
        ("sdxl", SDXLCFGCutoffCallback(cutoff_step_ratio=0.4)),
    ],
)
def test_diffusers_own_callbacks(pair, name, callback):
    """They bring the names of their tensors, and read num_timesteps."""
    results = run_both(pair, name, lambda: callback)
    alike(results)
    plain = (
        pair(name)
        .own(
            "a red heart",
            generator=torch.Generator().manual_seed(4),
            output_type="np",
            **STEPS,
            **SIZE,
        )
        .images
    )
    assert psnr(results[1], plain) < 100


def test_several_of_diffusers_callbacks(pair):
    both = diffusers.callbacks.MultiPipelineCallbacks(
        [SDCFGCutoffCallback(cutoff_step_ratio=0.4), SDCFGCutoffCallback(cutoff_step_ratio=0.9)]
    )
    with pytest.raises(RequestError, match="callback_on_step_end: prompt_embeds: expected"):
        # diffusers' second cutoff would leave half of a row; with one picture it takes the last.
        pair("sd1").own(
            "a cat",
            callback_on_step_end=lambda pipe, *_: {"prompt_embeds": torch.zeros(3, 77, 32)},
            **STEPS,
        )
    alike(run_both(pair, "sd1", lambda: both))


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_guidance_that_changes_with_every_step(pair, name):
    def make():
        def ramp(pipe, step, timestep, tensors):
            pipe._guidance_scale = 7.5 - step
            return {}

        return ramp

    alike(run_both(pair, name, make))


def test_guidance_that_is_turned_off_alone(pair):
    """Here the negative rows need not be cut away by hand: the recipe's picture all the same."""
    own = pair("sd1").own

    def off(pipe, step, timestep, tensors):
        if step == 2:
            pipe._guidance_scale = 1.0

    call = {"generator": torch.Generator().manual_seed(4), "output_type": "np"}
    got = own("a red heart", callback_on_step_end=off, **call, **STEPS, **SIZE).images
    alike([run_both(pair, "sd1", cut_off(("prompt_embeds",)), inputs=["prompt_embeds"])[0], got])


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(
    ("name", "key"),
    [("sd1", "latents"), ("sd1", "prompt_embeds"), ("sdxl", "prompt_embeds"),
     ("sdxl", "add_text_embeds"), ("sdxl", "add_time_ids")],
)  # fmt: skip
def test_tensors_that_a_callback_changes(pair, name, key, in_place):
    def make():
        def change(pipe, step, timestep, tensors):
            factor = 0.5 if step == 1 else 1
            if in_place:
                tensors[key].mul_(factor)
                return {}
            return {key: tensors[key] * factor}

        return change

    results = run_both(pair, name, make, inputs=[key])
    alike(results)
    assert psnr(results[1], run_both(pair, name, lambda: None)[1]) < 100


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(
    ("name", "key"),
    [("sd1", "mask"), ("inpaint", "mask"), ("inpaint", "masked_image_latents"),
     ("inpaint_xl", "masked_image_latents")],
)  # fmt: skip
def test_holes_that_a_callback_changes(pair, photo, mask, name, key, in_place):
    def make():
        def change(pipe, step, timestep, tensors):
            if step != 1:
                return {}
            if in_place:
                tensors[key].zero_()
                return {}
            return {key: tensors[key] * 0}

        return change

    call = {"task": "inpainting", "image": photo, "mask_image": mask, "strength": 0.9}
    results = run_both(pair, name, make, inputs=[key], **call)
    alike(results)
    assert psnr(results[1], run_both(pair, name, lambda: None, **call)[1]) < 100


def test_a_changed_negative_prompt_has_no_effect_and_says_so(pair):
    """diffusers shows it and does not read it again."""

    def make():
        return lambda pipe, step, timestep, tensors: {
            "negative_prompt_embeds": tensors["negative_prompt_embeds"] * 3
        }

    with pytest.warns(UserWarning, match="negative_prompt_embeds has no effect, as in diffusers"):
        alike(run_both(pair, "sd1", make, inputs=["negative_prompt_embeds"]))


def test_the_guidance_that_a_distilled_model_is_told(pair):
    def make():
        return lambda pipe, step, timestep, tensors: {"w_embedding": tensors["w_embedding"] * 0.5}

    results = run_both(pair, "lcm_own", make, inputs=["w_embedding"])
    alike(results)
    assert psnr(results[1], run_both(pair, "lcm_own", lambda: None)[1]) < 100


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"latent": None}, "given 'latent'; did you mean latents?"),
        ({"prompt_embeds": torch.zeros(2, 77, 31)}, "prompt_embeds"),
        ({"prompt_embeds": torch.zeros(2, 77, 32, dtype=torch.int64)}, "prompt_embeds"),
        ({"prompt_embeds": torch.zeros(1, 77, 32)}, "expected 2 rows, since guidance_scale is 7.5"),
        ({"mask": torch.zeros(2, 1, 8, 8)}, "given 'mask'"),
        ({"add_time_ids": torch.zeros(2, 6)}, "given 'add_time_ids'"),
    ],
)
def test_answers_that_are_refused(pair, answer, words):
    with pytest.raises(RequestError, match=r"^callback_on_step_end") as caught:
        pair("sd1").own("a cat", callback_on_step_end=lambda *_: answer, **STEPS)
    assert words in str(caught.value)


@pytest.mark.parametrize("value", ["7", None, float("nan"), [1, 2]])
def test_guidance_that_a_callback_cannot_set(pair, value):
    own = pair("sd1").own
    with pytest.raises(RequestError, match="guidance_scale"):
        own(
            "a cat",
            callback_on_step_end=lambda pipe, *_: setattr(pipe, "_guidance_scale", value),
            **STEPS,
        )


def test_what_a_pipeline_says_of_its_runs(pair):
    """Of the innermost run in progress, else of the last; nested runs have their own."""
    own = pair("sd1").own
    seen = []

    def outer(pipe, step, timestep, tensors):
        if step == 0:
            pipe("a dog", guidance_scale=3, callback_on_step_end=inner, num_inference_steps=2)
        seen.append((pipe.guidance_scale, pipe.num_timesteps, pipe.clip_skip))

    def inner(pipe, step, timestep, tensors):
        pipe._guidance_scale = 2.0
        seen.append((pipe.guidance_scale, pipe.num_timesteps, pipe.clip_skip))

    own("a cat", guidance_scale=5, clip_skip=1, callback_on_step_end=outer, num_inference_steps=3)
    assert seen == [(2.0, 2, None)] * 2 + [(5, 3, 1)] * 3
    assert (own.guidance_scale, own.num_timesteps) == (5, 3)
    with pytest.raises(AttributeError, match="there is no run to change"):
        own._guidance_scale = 1.0
    own._interrupt = False
    assert own.cross_attention_kwargs is None
