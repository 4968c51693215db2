"""The models that ship: they load by name, and diffusers and transformers draw the same."""

import pytest
import torch
from gpt_halves import Halves, greedy
from pairs import LEAST_PSNR, Pair, generators, psnr

import pyengine
from pyengine.pipelines.loading import NAMED, shipped_folder

PROMPTS = 20
#: All files of one together.
LARGEST = 24_000_000


@pytest.fixture(scope="module")
def shipped():
    return Pair(shipped_folder())


def labels_of(name):
    return (shipped_folder(name) / "concepts.txt").read_text(encoding="utf-8").splitlines()


def labels(name="emoji"):
    lines = labels_of(name)
    return lines[:: max(1, len(lines) // PROMPTS)][:PROMPTS]


def test_it_loads_without_a_name():
    pipe = pyengine.from_pretrained(device="cpu")
    assert pipe.source == "emoji"
    result = pipe("a red heart", seed=1, num_inference_steps=2)
    assert min(result.images[0].size) >= 64


@pytest.mark.slow
def test_diffusers_draws_the_same(shipped):
    prompts = labels()
    assert len(prompts) == PROMPTS
    defaults = shipped.own.defaults
    call = {
        "num_inference_steps": 10,
        "guidance_scale": defaults.guidance_scale,
        "output_type": "np",
    }
    seeds = list(range(PROMPTS))
    expected = shipped.text_to_image(prompts, generator=generators(seeds), **call).images
    got = shipped.own(prompts, seed=seeds, **call).images
    decibel = [psnr(a, b) for a, b in zip(expected, got, strict=True)]
    assert expected.std() > 0.05
    assert min(decibel) >= LEAST_PSNR, dict(zip(prompts, decibel, strict=True))


@pytest.mark.slow
def test_the_token_model_and_its_halves_draw_the_same():
    """The likeliest token every time, with the guidance that the model ships with."""
    prompts = labels("emoji-ar")
    assert len(prompts) == PROMPTS
    pipe = pyengine.from_pretrained("emoji-ar", device="cpu")
    halves = Halves(shipped_folder("emoji-ar"))
    got = pipe(prompts, temperature=0, output_type="np")
    scale = pipe.defaults.guidance_scale
    for prompt, tokens, image in zip(prompts, got.tokens, got.images, strict=True):
        want = halves.draw(prompt, greedy, scale)
        assert tokens.flatten().tolist() == want, prompt
        assert psnr(halves.decode(want)[0].permute(1, 2, 0).numpy(), image) >= LEAST_PSNR
    assert got.images.std() > 0.05


@pytest.mark.parametrize("name", NAMED)
def test_they_are_small(name):
    assert sum(p.stat().st_size for p in shipped_folder(name).rglob("*") if p.is_file()) <= LARGEST


@pytest.mark.parametrize("name", ["emoji-one-shot", "emoji-vae", "emoji-gan"])
def test_those_in_one_pass_draw_what_is_asked_for(name):
    pipe = pyengine.from_pretrained(name, device="cpu")
    assert pipe.source == name
    prompts = ["a red heart", "a blue heart"]
    images = pipe(prompts, seed=1, output_type="pt").images
    assert images.shape == (2, 3, 64, 64)
    red, blue = images[:, :, 24:40, 24:40].mean(dim=(2, 3))
    assert red[0] - red[2] > 0.3
    assert blue[2] - blue[0] > 0.3
    assert pipe(prompts[1], seed=2, output_type="pt").images[0].equal(images[1])


@pytest.mark.parametrize("name", ["emoji-ddpm", "emoji-cascade", "emoji-prior", "emoji-flow"])
def test_those_of_other_families_draw_what_is_asked_for(name):
    """The flow, whose samples are blobs, at least in its colour."""
    pipe = pyengine.from_pretrained(name, device="cpu")
    assert pipe.source == name
    images = pipe(["a red heart", "a blue heart"], seed=1, output_type="pt").images
    red, blue = images[:, :, 24:40, 24:40].mean(dim=(2, 3))
    assert red[0] - red[2] > 0.15
    assert blue[2] - blue[0] > 0.15


def test_what_the_flow_encodes_it_draws_again():
    """Pictures that it was not trained on, beside other prompts too: to 1e-4 of full scale."""
    pipe = pyengine.from_pretrained("emoji-flow", device="cpu")
    drawn = pyengine.from_pretrained("emoji-gan", device="cpu")
    drawings = drawn(["a red heart", "a rocket"], seed=1, output_type="pt").images
    images = torch.cat([drawings, drawings.flip(3), drawings / 2, torch.ones(1, 3, 64, 64)])
    prompts = ["a red heart", "a cat", "", "a rocket", "a taxi", "a rocket", "a fox"]
    latents = pipe.encode(images, prompts)
    assert latents.shape == (7, 3 * 64 * 64)
    again = pipe(prompts, latents=latents, output_type="pt").images
    assert (again - images).abs().max() < 1e-4
