"""Janus: the tokens and pictures that transformers generates, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from token_checks import check_stop_within_a_token
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerFast

import pyengine
from pyengine.errors import CheckpointError, ConfigError, RequestError

PROMPTS = ["a red heart", "two big blue dogs with a smiling moon", "x"]
TEMPLATE = "<|User|>: {}\n\n<|Assistant|>:"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_janus(tmp_path_factory.mktemp("checkpoints") / "janus")


@pytest.fixture(scope="module")
def ours(folder):
    return pyengine.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def theirs(folder):
    model = JanusForConditionalGeneration.from_pretrained(folder).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    # transformers 5 saves this key and does not read it back.
    boi = tokenizer.convert_tokens_to_ids("<begin_of_image>")
    model.generation_config.generation_kwargs = {"boi_token_id": boi}

    def generate(prompts, guidance_scale=5.0):
        """(tokens [N, 9], pictures [N, 3, H, W] in 0..1), greedily, padded at the left."""
        texts = [TEMPLATE.format(p) + "<begin_of_image>" for p in prompts]
        given = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
        tokens = model.generate(
            input_ids=given.input_ids,
            attention_mask=given.attention_mask,
            do_sample=False,
            generation_mode="image",
            guidance_scale=guidance_scale,
        )
        with torch.no_grad():
            pixels = model.decode_image_tokens(tokens).permute(0, 3, 1, 2)
        return tokens, (pixels * 0.5 + 0.5).clamp(0, 1)

    generate.model, generate.tokenizer = model, tokenizer
    return generate


@pytest.mark.parametrize("guidance_scale", [1.5, 5.0, 12.0])
def test_greedy_tokens_and_pictures(ours, theirs, guidance_scale):
    for prompts in ([PROMPTS[1]], PROMPTS):
        tokens, images = theirs(prompts, guidance_scale)
        got = ours(prompts, temperature=0, guidance_scale=guidance_scale, output_type="pt")
        assert torch.equal(got.tokens.flatten(1), tokens)
        torch.testing.assert_close(got.images, images, rtol=0, atol=2e-5)
    assert len(tokens.unique()) > 3
    assert images.std() > 0.05
    assert got.report.steps == 9
    assert got.report.guidance_scale == guidance_scale


def test_ids_are_those_of_transformers(ours, theirs):
    for prompt in [*PROMPTS, "", " spaces  around ", "crème brûlée 漢字", "a\nb"]:
        want = theirs.tokenizer(TEMPLATE.format(prompt.strip()) + "<begin_of_image>").input_ids
        assert ours._ids("prompt", prompt) == want


@torch.no_grad()
def test_without_guidance(ours, theirs):
    """transformers' image mode always guides: from its modules, the conditional row alone."""
    model = theirs.model
    ids = torch.tensor([ours._ids("prompt", PROMPTS[0])])
    x = model.get_input_embeddings()(ids)
    want = []
    for _ in range(9):
        hidden = model.model.language_model(inputs_embeds=x).last_hidden_state[:, -1]
        want.append(int(model.model.generation_head(hidden).argmax()))
        new = model.prepare_embeddings_for_image_generation(torch.tensor([[want[-1]]]))
        x = torch.cat([x, new], dim=1)
    for scale in (1.0, 0.0):
        got = ours(PROMPTS[0], temperature=0, guidance_scale=scale)
        assert got.tokens.flatten().tolist() == want


@torch.no_grad()
def test_drawn_tokens(ours, theirs):
    """From transformers' logits without a cache, with guidance and our numbers."""
    model, scale = theirs.model, 3.0
    got = ours(PROMPTS[1], seed=6, guidance_scale=scale, temperature=0.9, min_p=0.05)
    ids = ours._ids("prompt", PROMPTS[1])
    kept = (ids[0], ids[-1])
    blank = [i if i in kept else model.generation_config.pad_token_id for i in ids]
    x = model.get_input_embeddings()(torch.tensor([ids, blank]))
    generator, want = torch.Generator().manual_seed(6), []
    for _ in range(9):
        hidden = model.model.language_model(inputs_embeds=x).last_hidden_state[:, -1]
        cond, uncond = model.model.generation_head(hidden)
        p = ((uncond + scale * (cond - uncond)) / 0.9).softmax(-1)
        p = torch.where(p < 0.05 * p.max(), 0.0, p).double()
        u = torch.rand(1, generator=generator, dtype=torch.float64)
        want.append(int(((p / p.sum()).cumsum(0) <= u).sum()))
        new = model.prepare_embeddings_for_image_generation(torch.tensor([[want[-1]]] * 2))
        x = torch.cat([x, new], dim=1)
    assert got.tokens.flatten().tolist() == want
    assert (got.tokens != ours(PROMPTS[1], seed=7, guidance_scale=scale).tokens).any()


def test_a_picture_alone_and_in_a_batch(ours):
    """Prompts of different lengths, several pictures of each."""
    batch = ours(PROMPTS, seed=5, num_images_per_prompt=2, output_type="pt")
    assert batch.seeds == list(range(5, 11))
    for i in range(6):
        alone = ours(PROMPTS[i // 2], seed=5 + i, output_type="pt")
        assert torch.equal(alone.tokens[0], batch.tokens[i])
        torch.testing.assert_close(alone.images[0], batch.images[i], rtol=0, atol=1e-6)
    again = ours(PROMPTS, seed=5, num_images_per_prompt=2, output_type="pt")
    assert torch.equal(again.images, batch.images)


def test_negative_prompt(ours):
    call = {"seed": 3, "guidance_scale": 8.0}
    plain = ours(PROMPTS[0], **call).tokens
    other = ours(PROMPTS[0], negative_prompt="a very long text of another thing", **call).tokens
    assert (plain != other).any()
    same = ours(PROMPTS[0], negative_prompt=PROMPTS[0], **call).tokens
    assert torch.equal(same, ours(PROMPTS[0], seed=3, guidance_scale=1.0).tokens)


def test_prefix(ours):
    whole = ours(PROMPTS, temperature=0)
    tokens = whole.tokens.flatten(1)
    for n in (1, 4, 8):  # greedily, what was drawn goes on as it went
        again = ours(PROMPTS, temperature=0, prefix=tokens[:, :n])
        assert torch.equal(again.tokens, whole.tokens)
        assert again.report.steps == 9 - n
    pixels = np.random.default_rng(2).integers(0, 256, (4, 6, 3), np.uint8)
    upper = Image.fromarray(pixels)
    known = ours.model.vq.encode_tokens(torch.tensor(pixels).permute(2, 0, 1)[None] / 255 * 2 - 1)
    result = ours(PROMPTS[:2], prefix=upper, seed=1)
    assert torch.equal(result.tokens[:, :2], known.expand(2, -1, -1))
    alone = ours(PROMPTS[1], prefix=upper, seed=2)
    assert torch.equal(alone.tokens[0], result.tokens[1])


@pytest.mark.parametrize("how", ["interrupt", "exception"])
def test_a_callback_stops_within_the_token(ours, how):
    check_stop_within_a_token(ours, PROMPTS, how, (6, 6))


# --- what is refused ------------------------------------------------------------------------------

REFUSED = {
    "no prompt": ({"prompt": None}, "prompt: expected a text or a list"),
    "long prompt": ({"prompt": "q" * 80}, "prompt: expected at most 71 tokens, since max_position_"
                    "embeddings is 80 and the picture takes 9, given '[89][0-9] tokens'"),
    "long negative": ({"negative_prompt": "q" * 80}, "negative_prompt: expected at most 71 tokens"),
    "width": ({"width": 8}, "width: expected 6, the model's only one, given 8"),
    "prefix": ({"prefix": [30]}, "prefix: expected tokens 0 to 29, given '30 to 30'"),
    "long prefix": ({"prefix": [0] * 9}, "prefix: expected 1 to 8 tokens, given '9 tokens'"),
    "odd prefix": ({"prefix": Image.new("RGB", (6, 3))}, "less than 6 high, a multiple of 2"),
    "image": ({"image": Image.new("RGB", (6, 6))}, "image: this model has no such argument"),
    "guidance": ({"guidance_scale": -1}, "guidance_scale: expected a number from 0 to 1000"),
    "surrogate": ({"prompt": "a\ud800"}, "prompt: expected Unicode text"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(ours, name):
    call, message = REFUSED[name]
    with pytest.raises(RequestError, match=message):
        ours(**{"prompt": "a cat", **call})


@pytest.fixture
def damaged(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "damaged")


def edit(path, change):
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


DAMAGED = {
    "boi": ("generation", lambda d: d["generation_kwargs"].update(boi_token_id=10**4),
            "boi_token_id 10000, but text_config's vocab_size is"),
    "no boi": ("generation", lambda d: d.pop("generation_kwargs"), "generation_kwargs is missing"),
    "bos": ("generation", lambda d: d.update(bos_token_id=[1]), "bos_token_id must be a whole"),
    "code": ("generation", lambda d: d.update(auto_map={}), "auto_map would run code"),
    "vocabulary": ("model", lambda d: d["text_config"].update(vocab_size=100),
                   "ids up to [0-9]+, but text_config's vocab_size is 100"),
    "width": ("model", lambda d: d["text_config"].update(hidden_size=32),
              "projection_dim 24, but text_config's hidden_size is 32"),
    "tokens": ("model", lambda d: d["vision_config"].update(num_image_tokens=8),
               "num_image_tokens 8, but image_size 6 and patch_size 2 make 9"),
    "context": ("model", lambda d: d["text_config"].update(max_position_embeddings=9),
                "max_position_embeddings 9 leaves no room"),
    "heads": ("model", lambda d: d["text_config"].update(num_key_value_heads=3),
              "num_attention_heads 4 is no multiple of num_key_value_heads 3"),
    "odd heads": ("model", lambda d: d["text_config"].update(head_dim=7), "heads of 7 cannot be"),
    "rope": ("model", lambda d: d["text_config"]["rope_parameters"].update(rope_type="yarn"),
             "rope_type is 'yarn', expected 'default'"),
    "channels": ("model", lambda d: d["vq_config"].update(base_channels=40),
                 r"channel_multiplier\[0\] is 40, expected a multiple of 32"),
    "latent": ("model", lambda d: d["vq_config"].update(double_latent=True), "double_latent is Tr"),
    "key": ("model", lambda d: d.update(wand=1), "unknown keys 'wand'"),
    "layers": ("model", lambda d: d["text_config"].update(num_hidden_layers=10**9), "num_hidden_l"),
    "model": ("tokenizer", lambda d: d["model"].update(type="Unigram"), "expected a BPE model"),
    "ids": ("tokenizer", lambda d: d["model"]["vocab"].update(a="b"), "id of 'a'"),
    "merges": ("tokenizer", lambda d: d["model"].update(merges=[["q", "zz"]]), "cannot be used"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_configs(damaged, name):
    part, change, message = DAMAGED[name]
    names = {"generation": "generation_config.json", "model": "config.json"}
    edit(damaged / names.get(part, "tokenizer.json"), change)
    with pytest.raises(ConfigError, match=message):
        pyengine.from_pretrained(damaged, device="cpu")


def test_a_codebook_that_disagrees_with_the_tensors(damaged):
    edit(damaged / "config.json", lambda d: d["vq_config"].update(num_embeddings=31))
    message = r"misshapen: 'model.generation_embeddings.weight' is \[30, 5\], expected \[31, 5\]"
    with pytest.raises(CheckpointError, match=message):
        pyengine.from_pretrained(damaged, device="cpu")


@pytest.mark.parametrize("name", ["generation_config.json", "tokenizer.json"])
def test_files_that_are_missing(damaged, name):
    (damaged / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name}.*no such file|expected {name}"):
        pyengine.from_pretrained(damaged, device="cpu")


def test_logits_that_are_no_numbers(damaged):
    tensors = load_file(damaged / "model.safetensors")
    tensors["model.generation_embeddings.weight"][:] = float("nan")
    save_file(tensors, damaged / "model.safetensors")
    pipe = pyengine.from_pretrained(damaged, device="cpu")
    with pytest.raises(CheckpointError, match=r"logits: .* found NaN in picture 0 at step 1"):
        pipe("a cat", seed=1)


def test_a_template_of_the_checkpoint(damaged, ours):
    (damaged / "pyengine.json").write_text('{"template": "{}", "guidance_scale": 2.0}')
    pipe = pyengine.from_pretrained(damaged, device="cpu")
    whole = TEMPLATE.format(PROMPTS[0])
    got = pipe(whole, seed=1)
    assert torch.equal(got.tokens, ours(PROMPTS[0], seed=1, guidance_scale=2.0).tokens)
    (damaged / "pyengine.json").write_text('{"template": "nothing"}')
    with pytest.raises(ConfigError, match=r"template has no \{\} for the prompt"):
        pyengine.from_pretrained(damaged, device="cpu")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(folder, dtype):
    pipe = pyengine.from_pretrained(folder, device="cpu", dtype=dtype)
    result = pipe(PROMPTS, seed=1, output_type="np")
    assert result.images.shape == (3, 6, 6, 3)
    assert np.isfinite(result.images).all()
