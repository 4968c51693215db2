"""Whole pictures on the CPU, in float32 unless said, have the same bits in every run, alone and at
every place in batches of 1 to 8, on one thread and on two, for every sampler.
"""

import pytest
import tiny
import torch

import pyengine
from pyengine.ops._core import core
from pyengine.pipelines.loading import shipped_folder
from pyengine.schedules import SAMPLER_NAMES

SEEDS = (3, 14, 15, 92, 65, 35, 89, 79)
SIZE = {"height": 40, "width": 32}
#: Long enough for each sampler's whole history.
STEPS = 4


@pytest.fixture(autouse=True)
def threads():
    """Sets torch's number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def draw(pipe, seeds, prompt="a red heart", **call):
    call = {"num_inference_steps": STEPS, "output_type": "pt", **SIZE, **call}
    with pyengine.ops.kernels_used() as used:
        pictures = pipe(prompt, seed=list(seeds), num_images_per_prompt=len(seeds), **call).images
    ours = f"cpu-{pyengine.ops.isa()}"
    assert {*used.summary().values()} == {ours}, used.summary()  # nothing is left to torch
    return pictures


def check(pipe, threads, sizes=range(1, 9), **call):
    """Compares every place of batches of `sizes`, on 1 and 2 threads in turn, with one alone."""
    threads(1)
    alone = {s: draw(pipe, [s], **call)[0] for s in SEEDS}
    assert (alone[SEEDS[0]] - alone[SEEDS[1]]).abs().max() > 0.02, "all alike would prove nothing"
    assert torch.equal(draw(pipe, SEEDS[:1], **call)[0], alone[SEEDS[0]]), "the next run"
    for size in sizes:
        threads(1 + size % 2)
        order = SEEDS[-size:] + SEEDS[:-size]
        for place, (seed, picture) in enumerate(
            zip(order, draw(pipe, order[:size], **call), strict=False)
        ):
            assert torch.equal(picture, alone[seed]), f"{place + 1} of {size}"


@pytest.mark.parametrize("sampler", SAMPLER_NAMES)
def test_every_sampler(pair, threads, sampler):
    check(pair("sd1").own, threads, (1, 2, 5), scheduler=sampler)


@pytest.mark.parametrize("model", ["sd1", "sd2", "sdxl", "lcm"])
def test_every_place_of_every_batch(pair, threads, model):
    check(pair(model).own, threads, num_inference_steps=2)


def test_options_that_look_at_a_whole_picture(pair, threads):
    pipe = pair("sdxl").own
    check(pipe, threads, (3, 4), guidance_rescale=0.7, negative_prompt="blue", clip_skip=1)


def test_image_to_image_and_inpainting(pair, threads, photo, mask):
    sized = {"height": 48, "width": 80, "strength": 0.8, "scheduler": "euler_ancestral"}
    check(pair("sd1").own, threads, (2, 3), image=photo, **sized)
    for model in ("sd1", "inpaint"):
        check(pair(model).own, threads, (3,), image=photo, mask_image=mask, **sized)


def test_tiles(pair, threads):
    pipe = pair("sd1").own
    pipe.vae.enable_tiling()
    try:
        check(pipe, threads, (2, 3), height=96, width=80)
    finally:
        pipe.vae.disable_tiling()


def test_other_prompts_beside_it(pair, threads):
    pipe = pair("sdxl").own
    call = {"num_inference_steps": STEPS, "output_type": "pt", "scheduler": "unipc", **SIZE}
    threads(1)
    alone = pipe("a red heart", seed=8, negative_prompt="blue", **call).images[0]
    threads(2)
    batch = pipe(
        ["two cats and a very long story about them", "a red heart", "the moon"],
        seed=[1, 8, 2],
        negative_prompt=["", "blue", "a dog"],
        **call,
    ).images
    assert torch.equal(batch[1], alone)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16], ids=str)
def test_weights_of_16_bits(tmp_path, threads, stored):
    folder = tiny.write_sd1(tmp_path / "half", unet={"layers_per_block": 1}, dtype=stored)
    check(pyengine.from_pretrained(folder, device="cpu"), threads, (2, 3), num_inference_steps=2)


@pytest.fixture(params=["avx512", "avx512_bf16", "amx_bf16"])
def isa(request):
    """An instruction set that computes in bfloat16 in its own way, for one test."""
    reason = pyengine.ops.isas().get(request.param, "is not in this build")
    if reason:
        pytest.skip(f"{request.param} {reason}")
    before = pyengine.ops.isa()
    core().set_isa(request.param)
    yield request.param
    core().set_isa(before)


@pytest.mark.parametrize("write", [tiny.write_sd1, tiny.write_sdxl])
def test_activations_in_bfloat16(tmp_path, threads, isa, write):
    folder = write(tmp_path / "model")
    pipe = pyengine.from_pretrained(folder, device="cpu", dtype=torch.bfloat16)
    check(pipe, threads, (2, 3), num_inference_steps=2)


@pytest.mark.parametrize("tier", ["int8", "fp8"])
@pytest.mark.parametrize("write", [tiny.write_sd1, tiny.write_sdxl])
def test_weights_and_activations_of_8_bits(tmp_path, threads, write, tier):
    pipe = pyengine.from_pretrained(write(tmp_path / "model"), device="cpu", weights=tier)
    check(pipe, threads, (2, 3), num_inference_steps=2)


TOKEN_MODELS = ("write_amused", "write_image_gpt", "write_janus", "write_picture_gpt")


@pytest.mark.parametrize("write", TOKEN_MODELS)
def test_token_models_with_weights_of_16_bits(tmp_path, write):
    """They are kept as stored, and the tokens are those of the same numbers in 32 bits."""
    folders = [getattr(tiny, write)(tmp_path / name) for name in ("half", "whole")]
    for folder in folders:
        tiny.store_as(folder, torch.float16)
    tiny.store_as(folders[1], torch.float32)
    half, whole = (pyengine.from_pretrained(folder, device="cpu") for folder in folders)
    prompt = ["a red heart", "cats"] if half.takes_prompt else []
    stored = {p.dtype for p in half.model.parameters()}
    assert (half.dtype, stored) == (torch.float32, {torch.float16, torch.float32})
    got, want = (pipe(*[prompt] * bool(prompt), seed=3) for pipe in (half, whole))
    assert torch.equal(got.tokens, want.tokens)


@pytest.mark.skipif(not shipped_folder().exists(), reason="no model ships in this tree")
def test_the_model_that_ships(threads):
    pipe = pyengine.from_pretrained(device="cpu")
    check(pipe, threads, (1, 3, 8), num_inference_steps=2, height=64, width=64)


def test_another_load_of_the_same_checkpoint(pair, threads):
    """Another load: other addresses, another order of memory."""
    threads(2)
    first = pair("sdxl").own
    again = pyengine.from_pretrained(first.source, device="cpu")
    assert torch.equal(draw(first, SEEDS[:2]), draw(again, SEEDS[:2]))
