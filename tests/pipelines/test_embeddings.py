"""Embeddings in place of texts, and encode_prompt, against diffusers' pipelines."""

import inspect

import diffusers
import pytest
import torch
from pairs import LEAST_PSNR, psnr

from pyengine.errors import RequestError
from pyengine.pipelines import StableDiffusionPipeline, StableDiffusionXLPipeline

PROMPTS = ["a red heart", "two cats on the moon"]
STEPS = {"num_inference_steps": 4}
ENCODE = [
    {},
    {"num_images_per_prompt": 2},
    {"do_classifier_free_guidance": False},
    {"negative_prompt": ["a dog", "blue"]},
    {"clip_skip": 1},
]


def names(xl):
    plain = ("prompt_embeds", "negative_prompt_embeds")
    return (*plain, "pooled_prompt_embeds", "negative_pooled_prompt_embeds") if xl else plain


def both(pair, name, **call):
    """What both give for encode_prompt."""
    plain = {"num_images_per_prompt": 1, "do_classifier_free_guidance": True, "device": "cpu"}
    call = {"prompt": PROMPTS, **plain, **call}
    theirs = pair(name).text_to_image.encode_prompt(**call)
    ours = pair(name).own.encode_prompt(**call)
    assert len(theirs) == len(ours)
    return zip(theirs, ours, strict=True)


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("call", ENCODE, ids=str)
def test_encode_prompt(pair, name, call):
    for want, got in both(pair, name, **call):
        if want is None:
            assert got is None
            continue
        assert got.dtype == want.dtype
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_encode_prompt_of_embeddings(pair, name):
    """They are repeated; what is missing is encoded, to their length."""
    given = dict(zip(names(name == "sdxl"), both(pair, name), strict=True))
    given = {key: want for key, (want, _) in given.items() if "negative" not in key}
    given["prompt_embeds"] = given["prompt_embeds"][:, :50]
    for how in ({}, {"negative_prompt": ["a dog", "blue"]}):
        call = {"prompt": None, "num_images_per_prompt": 2, **given, **how}
        for want, got in both(pair, name, **call):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (StableDiffusionPipeline, diffusers.StableDiffusionPipeline),
        (StableDiffusionXLPipeline, diffusers.StableDiffusionXLPipeline),
    ],
)
def test_the_order_of_arguments_is_diffusers(ours, theirs):
    """Of the call and of encode_prompt; what is ours alone comes by name."""
    for method in ("__call__", "encode_prompt"):
        mine = inspect.signature(getattr(ours, method)).parameters.values()
        positional = [p.name for p in mine if p.kind == p.POSITIONAL_OR_KEYWORD]
        wanted = inspect.signature(getattr(theirs, method)).parameters.values()
        assert positional == [p.name for p in wanted if p.kind == p.POSITIONAL_OR_KEYWORD]


def test_positional_height_and_width(pair):
    for name, given in (("sd1", ("a cat", 48, 32, 2)), ("sdxl", ("a cat", None, 48, 32, 2))):
        expected = pair(name).text_to_image(
            *given, generator=torch.Generator().manual_seed(3), output_type="np"
        )
        got = pair(name).own(*given, seed=3, output_type="np")
        assert psnr(expected.images, got.images) >= LEAST_PSNR


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
@pytest.mark.parametrize("negative", [None, "a dog"])
def test_embeddings_in_place_of_texts(pair, name, negative):
    """The picture of the texts to the bit, and diffusers' with the same embeddings."""
    own, keys = pair(name).own, names(name == "sdxl")
    call = {"seed": 5, "num_images_per_prompt": 2, "output_type": "np", **STEPS}
    wanted = own(PROMPTS, negative_prompt=negative, **call).images
    given = dict(zip(keys, own.encode_prompt(PROMPTS, negative_prompt=negative), strict=True))
    assert (own(**given, **call).images == wanted).all()
    pair(name).check(None, num_images_per_prompt=2, **given, **STEPS)


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_embeddings_of_one_side_only(pair, name):
    own, keys = pair(name).own, names(name == "sdxl")
    all_ = dict(zip(keys, own.encode_prompt("a cat", negative_prompt="a dog"), strict=True))
    positive = {k: v for k, v in all_.items() if "negative" not in k}
    negative = {k: v for k, v in all_.items() if "negative" in k}
    pair(name).check(None, **positive, **STEPS)
    pair(name).check(None, negative_prompt="a dog", **positive, **STEPS)
    pair(name).check("a cat", **negative, **STEPS)
    pair(name).check(None, guidance_scale=1.0, **positive, **STEPS)


@pytest.mark.parametrize("length", [1, 20, 154])
def test_embeddings_of_other_lengths(pair, length):
    """What prompt weighting makes of long prompts; both sides are given."""
    text, other = torch.randn(2, 1, length, 32, generator=torch.Generator().manual_seed(1))
    pair("sd1").check(None, prompt_embeds=text, negative_prompt_embeds=other, **STEPS)


def test_embeddings_in_another_dtype(pair):
    own = pair("sd1").own
    text, other = own.encode_prompt("a cat")
    call = {"seed": 5, "output_type": "latent", **STEPS}
    got = own(prompt_embeds=text.double(), negative_prompt_embeds=other.double(), **call).images
    assert torch.equal(got, own("a cat", **call).images)


@pytest.mark.parametrize("task", ["image_to_image", "inpainting"])
@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_embeddings_with_pictures(pair, photo, mask, name, task):
    keys = names(name == "sdxl")
    given = dict(zip(keys, pair(name).own.encode_prompt("a cat"), strict=True))
    sizes = {"mask_image": mask, "height": 48, "width": 80} if task == "inpainting" else {}
    pair(name).check(None, task=task, image=photo, strength=0.7, **given, **sizes, **STEPS)


def test_a_prompt_that_is_cut_is_told_by_encode_prompt(pair):
    with pytest.warns(UserWarning, match="was cut") as caught:
        pair("sd1").own.encode_prompt("a cat " * 90)
    assert {w.filename for w in caught} == {__file__}


def test_what_encode_prompt_refuses(pair):
    own = pair("sd1").own
    for call, field in [
        ({}, "prompt"), ({"prompt": "x", "lora_scale": "big"}, "lora_scale: expected a number"),
        ({"prompt": "x", "num_images_per_prompt": 0}, "num_images_per_prompt"),
        ({"prompt": "x", "clip_skip": 9}, "clip_skip"),
    ]:  # fmt: skip
        with pytest.raises(RequestError, match=f"^{field}"):
            own.encode_prompt(**call)
