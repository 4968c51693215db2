"""Whole pictures on a GPU: those of the CPU, the same bits again, no host waiting in the loop."""

import numpy as np
import pytest
import torch

import pyengine
from pyengine.bench.contest import psnr
from pyengine.errors import OutOfMemoryError

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]

PROMPTS = ["a red heart", "a blue circle", "a dog face"]
GIVEN = {"seed": 3, "output_type": "np", "num_inference_steps": 10}


@pytest.fixture(scope="module")
def pipe():
    return pyengine.from_pretrained(device="cuda")


def test_the_picture_of_the_cpu(pipe):
    expected = pyengine.from_pretrained(device="cpu")(PROMPTS, **GIVEN).images
    got = pipe(PROMPTS, **GIVEN)
    assert got.report.device.startswith("cuda")
    for one, other in zip(got.images, expected, strict=True):
        assert psnr(one, other) >= 40


def test_the_same_bits_again(pipe):
    first = pipe(PROMPTS, **GIVEN).images
    assert np.array_equal(pipe(PROMPTS, **GIVEN).images, first)
    pipe._evaluate.clear()
    assert np.array_equal(pipe(PROMPTS, **GIVEN).images, first)


def test_a_graph_draws_what_single_launches_draw(pipe, monkeypatch):
    replayed = pipe(PROMPTS, **GIVEN).images
    assert len(pipe._evaluate.steps) == 1
    monkeypatch.setattr(pipe._evaluate, "graphs", None)
    monkeypatch.setattr(pipe._evaluate, "steps", None)
    assert np.array_equal(pipe(PROMPTS, **GIVEN).images, replayed)


@pytest.mark.parametrize("scheduler", ["dpmpp_2m", "euler_ancestral"])
def test_no_step_waits_for_the_device(pipe, scheduler):
    """torch raises where a call in the loop would make the host wait."""
    given = {**GIVEN, "scheduler": scheduler, "output_type": "latent"}
    pipe(PROMPTS, **given)

    def strict(pipe, step, timestep, tensors):
        torch.cuda.set_sync_debug_mode("error" if step < 8 else "default")
        return {}

    try:
        pipe(PROMPTS, **given, callback_on_step_end=strict)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_types(pipe, dtype):
    narrow = pyengine.from_pretrained(device="cuda", dtype=dtype)(PROMPTS, **GIVEN).images
    for one, other in zip(narrow, pipe(PROMPTS, **GIVEN).images, strict=True):
        assert psnr(one, other) >= 15  # the same thing, differently sampled


def test_after_running_out_of_memory_it_draws_on(pipe):
    expected = pipe(PROMPTS[0], **GIVEN).images
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(max(free - (64 << 20), 1), dtype=torch.uint8, device="cuda")
    with pytest.raises(OutOfMemoryError, match="fewer at a time"):
        pipe(PROMPTS[0], **{**GIVEN, "num_images_per_prompt": 64, "height": 256, "width": 256})
    del hog
    assert np.array_equal(pipe(PROMPTS[0], **GIVEN).images, expected)


# --- tokens ---------------------------------------------------------------------------------------

TOKENS = {"seed": 3, "output_type": "np"}


@pytest.fixture(scope="module")
def gpt():
    return pyengine.from_pretrained("emoji-ar", device="cuda")


def test_the_drawn_picture_of_the_cpu(gpt):
    expected = pyengine.from_pretrained("emoji-ar", device="cpu")(PROMPTS, **TOKENS)
    got = gpt(PROMPTS, **TOKENS)
    assert torch.equal(got.tokens.cpu(), expected.tokens)
    for one, other in zip(got.images, expected.images, strict=True):
        assert psnr(one, other) >= 40


def test_a_graph_draws_the_tokens_of_single_launches(gpt, monkeypatch):
    replayed = gpt(PROMPTS, **TOKENS)
    assert len(gpt.graphs) == 1
    alone = gpt(PROMPTS[1], **{**TOKENS, "seed": 4})
    assert torch.equal(alone.tokens[0], replayed.tokens[1])
    monkeypatch.setattr(gpt, "graphs", None)
    plain = gpt(PROMPTS, **TOKENS)
    assert torch.equal(plain.tokens, replayed.tokens)
    assert plain.report.kernels == replayed.report.kernels


def test_no_token_waits_for_the_device(gpt, monkeypatch):
    gpt(PROMPTS, **TOKENS)
    draw, look = gpt.graphs.step, gpt.graphs.look

    def strict(*given):
        torch.cuda.set_sync_debug_mode("error")
        return draw(*given)

    def at_the_end(*given):
        torch.cuda.set_sync_debug_mode("default")
        return look(*given)

    monkeypatch.setattr(gpt.graphs, "step", strict)
    monkeypatch.setattr(gpt.graphs, "look", at_the_end)
    try:
        gpt(PROMPTS, **TOKENS)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("decoding", ["jacobi", "jacobi-gumbel"])
def test_jacobi_decoding(gpt, decoding):
    got = gpt(PROMPTS, decoding=decoding, **TOKENS)
    assert got.report.passes < got.report.tokens
    if decoding == "jacobi":
        assert torch.equal(got.tokens, gpt(PROMPTS, **TOKENS).tokens)


def test_masked_pictures(tmp_path):
    pytest.importorskip("diffusers", reason="the checkpoint is written by diffusers")
    import tiny

    pipe = pyengine.from_pretrained(tiny.write_amused(tmp_path / "amused"), device="cuda")
    given = {"num_inference_steps": 4, "seed": 1, "output_type": "latent"}
    replayed = pipe(PROMPTS, **given).tokens
    assert len(pipe.graphs) == 1
    pipe.graphs = None
    assert torch.equal(pipe(PROMPTS, **given).tokens, replayed)
