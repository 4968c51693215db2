"""The project's own DALL-E: its halves against transformers and diffusers, the whole against both
of them put together without a cache.
"""

import json
import shutil

import numpy as np
import pytest
import tiny
import torch
from gpt_halves import Halves, greedy
from PIL import Image
from safetensors.torch import load_file, save_file
from token_checks import check_stop_within_a_token

import pyengine
from pyengine.errors import CheckpointError, ConfigError, RequestError
from pyengine.models import PictureGPT

PROMPTS = ["a red heart", "two big blue dogs with a moon", "x"]
SIDE, CODES = 5, 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_picture_gpt(tmp_path_factory.mktemp("checkpoints") / "gpt")


@pytest.fixture(scope="module")
def ours(folder):
    return pyengine.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def theirs(folder):
    return Halves(folder)


# --- against the oracles --------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("shape", [{}, {"num_key_value_heads": 4}, {"head_dim": 10}])
def test_logits_of_transformers(tmp_path, shape):
    """Rows that come in one piece and in several, all ids and a range of them."""
    model, _ = tiny.make_gpt(12, **shape)
    model.save_pretrained(tmp_path)
    gpt = PictureGPT.from_pretrained(tmp_path)
    ids = torch.randint(
        model.config.vocab_size, (3, 20), generator=torch.Generator().manual_seed(1)
    )
    want = model(ids).logits
    for pieces in ([20], [7, 1, 12], [1] * 20):
        cache, end = gpt.cache(3, 20), 0
        for length in pieces:
            got = gpt.next_logits(ids[:, end : end + length], cache)
            end += length
            error = (got - want[:, end - 1]).norm() / want[:, end - 1].norm()
            assert error < 1e-5
    got = gpt.next_logits(ids, gpt.cache(3, 20))
    for first, count in ((0, 40), (5, 16), (16, 32), (37, 3), (model.config.vocab_size - 1, 1)):
        some = gpt.next_logits(ids, gpt.cache(3, 20), first, count)
        assert torch.equal(some, got[:, first : first + count])
        assert some.shape == (3, count)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_greedy_tokens_and_pictures(ours, theirs, guidance_scale):
    got = ours(PROMPTS, temperature=0, guidance_scale=guidance_scale, output_type="pt")
    for prompt, tokens, image in zip(PROMPTS, got.tokens, got.images, strict=True):
        want = theirs.draw(prompt, greedy, guidance_scale)
        assert tokens.flatten().tolist() == want
        torch.testing.assert_close(image[None], theirs.decode(want), rtol=0, atol=2e-5)
    assert len(got.tokens.unique()) > 3
    assert got.images.std() > 0.05
    assert got.report.steps == SIDE**2


def test_drawn_tokens(ours, theirs):
    """From their logits, with guidance and a negative prompt, and our numbers."""
    generator = torch.Generator().manual_seed(6)

    def choose(logits):
        p = (logits / 0.9).softmax(-1)
        p = torch.where(p < 0.05 * p.max(), 0.0, p).double()
        u = torch.rand(1, generator=generator, dtype=torch.float64)
        return int(((p / p.sum()).cumsum(0) <= u).sum())

    call = {"guidance_scale": 3.0, "temperature": 0.9, "min_p": 0.05, "negative_prompt": "a cat"}
    got = ours(PROMPTS[1], seed=6, **call)
    assert got.tokens.flatten().tolist() == theirs.draw(PROMPTS[1], choose, 3.0, "a cat")
    assert (got.tokens != ours(PROMPTS[1], seed=7, **call).tokens).any()


def test_prefix(ours, theirs):
    whole = ours(PROMPTS, temperature=0)
    tokens = whole.tokens.flatten(1)
    for n in (1, 7, SIDE**2 - 1):  # greedily, what was drawn goes on as it went
        again = ours(PROMPTS, temperature=0, prefix=tokens[:, :n])
        assert torch.equal(again.tokens, whole.tokens)
        assert again.report.steps == SIDE**2 - n
    pixels = np.random.default_rng(2).integers(0, 256, (4, 10, 3), np.uint8)
    x = torch.tensor(pixels).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        known = theirs.vq.quantize(theirs.vq.encode(x).latents)[2][2].tolist()
    got = ours(PROMPTS[0], prefix=Image.fromarray(pixels), temperature=0)
    assert got.tokens.flatten().tolist() == theirs.draw(PROMPTS[0], greedy, known=known)


# --- promises -------------------------------------------------------------------------------------


def test_same_bits_alone_and_in_a_batch(ours):
    """Prompts of different lengths, several pictures of each, on one thread and two."""
    call = {"guidance_scale": 2.0, "output_type": "pt"}
    batch = ours(PROMPTS, seed=5, num_images_per_prompt=2, **call)
    assert batch.seeds == list(range(5, 11))
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for i in range(6):
                alone = ours(PROMPTS[i // 2], seed=5 + i, **call)
                assert torch.equal(alone.tokens[0], batch.tokens[i])
                assert torch.equal(alone.images[0], batch.images[i])
    finally:
        torch.set_num_threads(before)
    generators = [torch.Generator().manual_seed(5 + i) for i in range(6)]
    again = ours(PROMPTS, generator=generators, num_images_per_prompt=2, **call)
    assert torch.equal(again.images, batch.images)


@pytest.mark.parametrize("how", ["interrupt", "exception"])
def test_a_callback_stops_within_the_token(ours, how):
    check_stop_within_a_token(ours, PROMPTS, how, (10, 10))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(folder, dtype):
    pipe = pyengine.from_pretrained(folder, device="cpu", dtype=dtype)
    result = pipe(PROMPTS, seed=1, output_type="np")
    assert result.images.shape == (3, 10, 10, 3)
    assert np.isfinite(result.images).all()


def test_weights_stored_in_half(folder, tmp_path, theirs):
    """They stay so in memory and are widened exactly."""
    half = shutil.copytree(folder, tmp_path / "half")
    path = half / "transformer" / "model.safetensors"
    save_file({k: v.half() for k, v in load_file(path).items()}, path, {"format": "pt"})
    wide = shutil.copytree(half, tmp_path / "wide")
    path = wide / "transformer" / "model.safetensors"
    save_file({k: v.float() for k, v in load_file(path).items()}, path, {"format": "pt"})
    pipes = [pyengine.from_pretrained(f, device="cpu") for f in (half, wide)]
    assert pipes[0].model.lm_head.weight.dtype == torch.float16
    one, other = (pipe(PROMPTS, seed=1, output_type="pt") for pipe in pipes)
    assert torch.equal(one.images, other.images)


# --- what is refused ------------------------------------------------------------------------------

REFUSED = {
    "no prompt": ({"prompt": None}, "prompt: expected a text or a list"),
    "long prompt": ({"prompt": "q" * 80}, "prompt: expected at most 16 tokens, start and end inc"),
    "long negative": ({"negative_prompt": "q" * 80, "guidance_scale": 2}, "negative_prompt: expec"),
    "width": ({"width": 8}, "width: expected 10, the model's only one, given 8"),
    "prefix": ({"prefix": [40]}, "prefix: expected tokens 0 to 39, given '40 to 40'"),
    "long prefix": ({"prefix": [0] * 25}, "prefix: expected 1 to 24 tokens, given '25 tokens'"),
    "odd prefix": ({"prefix": Image.new("RGB", (10, 3))}, "less than 10 high, a multiple of 2"),
    "image": ({"image": Image.new("RGB", (6, 6))}, "image: this model has no such argument"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(ours, name):
    call, message = REFUSED[name]
    with pytest.raises(RequestError, match=message):
        ours(**{"prompt": "a cat", **call})


DAMAGED = {
    "codes": ("tokens", {"picture_tokens": 39}, "picture_tokens 39, but vqvae's num_vq_embeddings"),
    "ids": ("tokens", {"padding": 10**4}, "ids up to 10000, but transformer's vocab_size is"),
    "shared": ("tokens", {"begin_of_picture": 0}, "begin_of_picture and padding share ids"),
    "overlap": ("tokens", {"first_picture_token": 9}, "text tokens and picture tokens share ids"),
    "text": ("tokens", {"text_tokens": 100}, "ids up to [0-9]+, but tokens' text_tokens is 100"),
    "side": ("tokens", {"side": 6}, "make rows of 53, but transformer's max_position_embeddings"),
    "class": ("tokens", {"_class_name": "Other"}, "_class_name is 'Other', expected PictureTok"),
    "key": ("tokens", {"wand": 1}, "unknown keys 'wand'"),
    "tied": ("transformer", {"tie_word_embeddings": True}, "tie_word_embeddings is True"),
    "model": ("transformer", {"model_type": "gpt2"}, "model_type is 'gpt2'"),
    "code": ("transformer", {"auto_map": {}}, "auto_map would run code"),
    "heads": ("transformer", {"num_key_value_heads": 3}, "no multiple of num_key_value_heads 3"),
}


@pytest.fixture
def damaged(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "damaged")


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_configs(damaged, name):
    part, change, message = DAMAGED[name]
    path = damaged / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=message):
        pyengine.from_pretrained(damaged, device="cpu")


@pytest.mark.parametrize("part", ["tokens", "transformer", "vqvae", "tokenizer"])
def test_parts_that_are_missing(damaged, part):
    path = damaged / "model_index.json"
    index = json.loads(path.read_text())
    del index[part]
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=f"PictureGPTPipeline needs {part} too"):
        pyengine.from_pretrained(damaged, device="cpu")


def test_logits_that_are_no_numbers(damaged):
    path = damaged / "transformer" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"][-CODES - 2 :] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    pipe = pyengine.from_pretrained(damaged, device="cpu")
    with pytest.raises(CheckpointError, match=r"logits: .* found NaN in picture 0 at step 1"):
        pipe("a cat", seed=1)
