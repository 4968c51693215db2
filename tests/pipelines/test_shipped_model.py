"""The model that ships: it loads without a name, and diffusers draws the same pictures with it."""

import pytest
from pairs import LEAST_PSNR, Pair, generators, psnr

import pyengine
from pyengine.pipelines.loading import shipped_folder

pytestmark = pytest.mark.skipif(
    not (shipped_folder() / "model_index.json").exists(), reason="no model ships in this tree yet"
)
PROMPTS = 20
#: All files together.
LARGEST = 24_000_000


@pytest.fixture(scope="module")
def shipped():
    return Pair(shipped_folder())


def labels():
    lines = (shipped_folder() / "concepts.txt").read_text(encoding="utf-8").splitlines()
    return lines[:: max(1, len(lines) // PROMPTS)][:PROMPTS]


def test_it_loads_without_a_name():
    pipe = pyengine.from_pretrained(device="cpu")
    assert pipe.source == "emoji"
    result = pipe("a red heart", seed=1, num_inference_steps=2)
    assert min(result.images[0].size) >= 64


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


def test_it_is_small():
    assert sum(p.stat().st_size for p in shipped_folder().rglob("*") if p.is_file()) <= LARGEST
