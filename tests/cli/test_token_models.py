"""`pyengine generate` and `pyengine info` with models that draw tokens."""

import json
import re

import numpy as np
import pytest
import tiny
from PIL import Image

from pyengine import metadata

WRITERS = {
    "amused": tiny.write_amused,
    "imagegpt": tiny.write_image_gpt,
    "janus": tiny.write_janus,
}
#: (height, width) of their pictures.
SIZES = {"amused": (12, 12), "imagegpt": (4, 6), "janus": (6, 6)}


@pytest.fixture(scope="module", params=WRITERS)
def token_model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / f"tiny-{request.param}"
    return request.param, str(WRITERS[request.param](folder))


def pixels(path):
    return np.asarray(Image.open(path))


def test_generate_and_repeat(run, token_model, tmp_path):
    kind, folder = token_model
    prompt = () if kind == "imagegpt" else ("a red heart",)
    how = ("--temperature", "0.9", "--top-k", "20", "--top-p", "0.95", "--min-p", "0.01")
    status, out, err = run(
        "generate", *prompt, "-m", folder, "--seed", "4", "-n", "2", *how, "-o", "x.png"
    )
    assert (status, err) == (0, "")
    assert re.search(r"seed 4 to 5, [0-9]+ steps of (masked|autoregressive)", out)
    for i in (1, 2):
        assert pixels(tmp_path / f"x-{i}.png").shape == (*SIZES[kind], 3)
        settings = metadata.read(tmp_path / f"x-{i}.png")
        assert settings.seed == 3 + i
        assert (settings.temperature, settings.top_k) == (0.9, 20)
        assert (settings.top_p, settings.min_p) == (0.95, 0.01)
        again = ("--from", f"x-{i}.png", "-m", folder, "-o", "again.png")
        status, _, err = run("generate", *again)
        assert (status, err) == (0, "")
        assert np.array_equal(pixels(tmp_path / "again.png"), pixels(tmp_path / f"x-{i}.png"))
    assert not np.array_equal(pixels(tmp_path / "x-1.png"), pixels(tmp_path / "x-2.png"))


def test_completing_a_picture(run, token_model, tmp_path):
    kind, folder = token_model
    prompt = () if kind == "imagegpt" else ("a red heart",)
    height, width = SIZES[kind]
    upper = np.random.default_rng(1).integers(0, 256, (height // 2 - height // 2 % 2, width, 3))
    Image.fromarray(upper.astype(np.uint8)).save(tmp_path / "upper.png")
    call = ("-m", folder, "--prefix", "upper.png", "--seed", "1")
    status, out, err = run("generate", *prompt, *call, "-o", "x.png", "--json")
    assert (status, err) == (0, "")
    assert len(json.loads(out)["settings"]["prefix"]) == 64
    status, _, err = run("generate", "--from", "x.png", "-m", folder)
    assert status == 2
    assert "expected it as --prefix" in err
    status, _, _ = run("generate", "--from", "x.png", *call[:4], "-o", "again.png")
    assert status == 0
    assert np.array_equal(pixels(tmp_path / "x.png"), pixels(tmp_path / "again.png"))


def test_refusals(run, token_model, tmp_path):
    kind, folder = token_model
    wrong = ("a cat", "-m", folder) if kind == "imagegpt" else ("-m", folder)
    message = "this model has no such argument" if kind == "imagegpt" else "expected a prompt or"
    for arguments, expected in (
        (wrong, f"prompt: {message}"),
        ((*wrong, "--scheduler", "ddim"), "prompt|scheduler: this model has no such argument"),
        (("a cat", "-m", folder, "--top-p", "7"), "top_p: expected a number from 0 to 1"),
    ):
        status, out, err = run("generate", *arguments)
        assert (status, out) == (2, "")
        assert re.search(expected, err), err


def test_stable_diffusion_draws_no_tokens(run, model):
    for option, value in (("--temperature", "1"), ("--top-k", "3")):
        status, _, err = run("generate", "a cat", "-m", model, option, value)
        assert status == 2
        assert f"{option[2:].replace('-', '_')}: this model draws no tokens" in err


def test_info(run, token_model):
    kind, folder = token_model
    status, out, err = run("info", folder)
    assert (status, err) == (0, "")
    facts = {
        "amused": ["AmusedPipeline", "codebook_size 40", "num_vq_embeddings 40",
                   "scheduler: masked: .*mask_token_id 40"],
        "imagegpt": ["ImageGPTForCausalImageModeling", "vocab_size 17", "n_positions 24"],
        "janus": ["JanusForConditionalGeneration", "num_embeddings 30", "num_image_tokens 9"],
    }  # fmt: skip
    for fact in facts[kind]:
        assert re.search(fact, out), out
    assert ("scheduler" in out) == (kind == "amused")
    assert re.search("hash: [0-9a-f]{64}", out)
    status, out, _ = run("info", folder, "--json")
    assert json.loads(out)["parameters"] > 1000
