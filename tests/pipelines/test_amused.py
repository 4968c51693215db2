"""aMUSEd: the pictures that diffusers draws from the same generator, and what is refused."""

import json
import shutil

import diffusers
import drawn
import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import pyengine
from pyengine.errors import CheckpointError, ConfigError, RequestError
from pyengine.pipelines import StopSampling

PROMPTS = ["a red heart", "a photo of the big blue house in style"]
FAST = {"num_inference_steps": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_amused(tmp_path_factory.mktemp("checkpoints") / "amused")


@pytest.fixture(scope="module")
def ours(folder):
    return pyengine.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def theirs(folder):
    """theirs("AmusedPipeline"): diffusers' pipeline over the same parts."""

    def load(name):
        pipe = getattr(diffusers, name).from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    made = {}
    return lambda name: made.setdefault(name, None) or made.update({name: load(name)}) or made[name]


def generator(seed=7):
    return torch.Generator().manual_seed(seed)


def as_tensor(picture):
    return torch.tensor(np.asarray(picture)).permute(2, 0, 1)[None] / 255


def same(ours, theirs, *, prompt=PROMPTS[0], seed=7, reference="AmusedPipeline", **call):
    """Both pictures and their tokens are the same; returns our result."""
    own = dict(call)
    got = ours(prompt, generator=generator(seed), output_type="pt", **{**FAST, **own})
    pipe = theirs(reference)
    tokens = pipe(prompt, generator=generator(seed), output_type="latent", **{**FAST, **call})
    want = pipe(prompt, generator=generator(seed), output_type="pt", **{**FAST, **call})
    assert torch.equal(got.tokens, tokens.images)
    torch.testing.assert_close(got.images, want.images, rtol=0, atol=2e-5)
    assert want.images.std() > 0.05
    return got


@pytest.mark.parametrize(
    "call",
    [
        {},
        {"num_inference_steps": 1},
        {"num_inference_steps": 12, "guidance_scale": 3.0},
        {"guidance_scale": 1.0},
        {"negative_prompt": "a blue dog"},
        {"height": 6, "width": 22},
        {"temperature": 3},
        {"temperature": (0.5, 4.0), "num_inference_steps": 3},
        {"prompt": PROMPTS, "negative_prompt": ["a cat", ""]},
        {"num_images_per_prompt": 3},
        {"micro_conditioning_aesthetic_score": 4, "micro_conditioning_crop_coord": (3, 1)},
    ],
    ids=str,
)
def test_text_to_image(ours, theirs, call):
    same(ours, theirs, **call)


@pytest.mark.parametrize(
    "overrides",
    [
        {"transformer": {"downsample": True, "upsample": True, "use_bias": True}},
        {"scheduler": {"masking_schedule": "linear"}},
        {"text": {"hidden_act": "gelu"}, "vqvae": {"force_upcast": True}},
    ],
    ids=str,
)
def test_other_checkpoints(overrides, tmp_path):
    folder = tiny.write_amused(tmp_path / "amused", **overrides)
    own, pipe = pyengine.from_pretrained(folder, device="cpu"), None
    pipe = diffusers.AmusedPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    same(own, lambda name: pipe, prompt=PROMPTS, height=8, width=16)


def test_tokens_to_begin_with(ours, theirs):
    latents = torch.randint(0, 40, (1, 6, 6), generator=generator(1))
    latents[:, 2:] = 40
    got = same(ours, theirs, latents=latents)
    assert torch.equal(got.tokens[:, :2], latents[:, :2])


# --- pictures to begin with -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def picture():
    return drawn.photo(16, 12, tile=4)


@pytest.fixture(scope="module")
def hole():
    return drawn.hole(16, 12, 5, 3, 13, 9)


@pytest.mark.parametrize(
    "call",
    [
        {},
        {"strength": 0.5},
        {"guidance_scale": 1.0, "num_inference_steps": 9},
        {"prompt": PROMPTS, "image": 2},
        {"num_images_per_prompt": 2},
    ],
    ids=str,
)
def test_inpainting(ours, theirs, picture, hole, call):
    several = call.pop("image", 1) if isinstance(call.get("image"), int) else 1
    given = {"image": [picture] * several, "mask_image": [hole] * several}
    got = same(ours, theirs, reference="AmusedInpaintPipeline", **given, **call)
    call.update({"image": several} if several > 1 else {})
    known = ours.vqvae.encode_tokens(as_tensor(picture))
    assert torch.equal(got.tokens[:, 0], known[:, 0].expand(len(got.tokens), -1))
    assert got.report.strength == call.get("strength", 1.0)


@pytest.mark.parametrize(
    "call", [{}, {"strength": 0.25, "num_inference_steps": 8}, {"strength": 0.8}], ids=str
)
def test_image_to_image(ours, theirs, picture, call):
    same(ours, theirs, image=picture, reference="AmusedImg2ImgPipeline", **call)


def test_all_of_a_picture_made_anew(ours, picture):
    """strength 1 masks everything; diffusers, whose index wraps around, masks nothing."""
    result = ours(PROMPTS[0], image=picture, strength=1.0, seed=1, **FAST)
    assert result.report.steps == 5
    plain = ours(PROMPTS[0], height=12, width=16, seed=1, **FAST)
    assert (result.tokens != plain.tokens).any()  # a random mask was drawn first
    mask = Image.new("L", picture.size, 255)
    whole = ours(PROMPTS[0], image=picture, mask_image=mask, seed=1, **FAST)
    assert whole.tokens.shape == result.tokens.shape


# --- generators and batches -----------------------------------------------------------------------


def test_a_picture_alone_and_in_a_batch(ours, theirs, picture, hole):
    for extra in ({}, {"image": picture, "mask_image": hole}, {"image": picture}):
        batch = ours(PROMPTS, seed=[3, 5], num_images_per_prompt=1, **extra, **FAST)
        for i, seed in enumerate((3, 5)):
            alone = ours(PROMPTS[i], seed=seed, **extra, **FAST)
            assert torch.equal(alone.tokens[0], batch.tokens[i])
            assert (
                np.abs(np.asarray(alone.images[0], int) - np.asarray(batch.images[i], int)).max()
                <= 1
            )
    alone = theirs("AmusedPipeline")(
        PROMPTS[1], generator=generator(5), output_type="latent", **FAST
    )
    assert torch.equal(ours(PROMPTS, seed=[3, 5], **FAST).tokens[1], alone.images[0])


def test_twice_the_same(ours):
    first, again = (ours(PROMPTS[0], seed=2, output_type="pt", **FAST) for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert first.seeds == [2]
    other = ours(PROMPTS[0], seed=4, **FAST)
    assert (other.tokens != first.tokens).any()


def test_which_tokens_may_be_drawn(ours):
    greedy = ours(PROMPTS[0], seed=2, top_k=1, temperature=(0, 0), **FAST).tokens
    again = ours(PROMPTS[0], seed=3, top_p=1e-9, temperature=(0, 0), **FAST).tokens
    assert torch.equal(greedy, again)  # the likeliest token everywhere, whatever the seed
    assert torch.equal(greedy, ours(PROMPTS[0], seed=4, min_p=1, temperature=(0, 0), **FAST).tokens)


def test_a_picture_of_one_token(ours):
    """diffusers has no room for one: it looks for the second least sure token."""
    result = ours(PROMPTS[0], height=2, width=2, seed=1, **FAST)
    assert result.tokens.shape == (1, 1, 1)


def test_nothing_to_make_anew(ours, picture):
    """diffusers masks a token that is known then, since at least one must be."""
    mask = Image.new("L", picture.size)
    result = ours(PROMPTS[0], image=picture, mask_image=mask, seed=1, **FAST)
    assert torch.equal(result.tokens, ours.vqvae.encode_tokens(as_tensor(picture)))


def test_prefix(ours, picture):
    tokens = list(range(9))
    result = ours(PROMPTS, prefix=tokens, seed=1, **FAST)
    assert result.tokens.flatten(1)[:, :9].tolist() == [tokens] * 2
    result = ours(PROMPTS, prefix=[tokens, tokens[::-1]], seed=1, **FAST)
    assert result.tokens.flatten(1)[:, :9].tolist() == [tokens, tokens[::-1]]
    upper = picture.crop((0, 0, 12, 4))
    result = ours(PROMPTS[0], prefix=upper, seed=1, **FAST)
    pixels = as_tensor(upper)
    assert torch.equal(result.tokens[:, :2], ours.vqvae.encode_tokens(pixels))
    alone = ours(PROMPTS[0], prefix=pixels[0], seed=1, **FAST)
    assert torch.equal(alone.tokens, result.tokens)


# --- stopping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["interrupt", "exception"])
def test_a_callback_stops_within_the_step(ours, how):
    seen = []

    def stop(pipe, step, timestep, tensors):
        seen.append((step, timestep, tensors["tokens"].clone()))
        if step == 1:
            if how == "exception":
                raise StopSampling
            pipe.interrupt()

    result = ours(PROMPTS, callback_on_step_end=stop, seed=1, **FAST)
    assert [s[:2] for s in seen] == [(0, 4), (1, 3)]
    assert result.report.interrupted
    assert result.report.steps == 2
    known = seen[-1][2] != 40
    assert known.any()
    assert not known.all()
    assert torch.equal(result.tokens[known], seen[-1][2][known])
    assert (result.tokens < 40).all()  # what is still masked is shown as drawn last
    assert not ours(PROMPTS, seed=1, **FAST).report.interrupted


def test_a_callback_changes_tokens(ours):
    def callback(pipe, step, timestep, tensors):
        return {"tokens": torch.full_like(tensors["tokens"], 11)} if timestep == 0 else None

    result = ours(PROMPTS[0], callback_on_step_end=callback, seed=1, **FAST)
    assert (result.tokens == 11).all()


@pytest.mark.parametrize(
    "answer",
    [3, {"tokens": None}, {"tokens": torch.zeros(1, 6, 6)}, {"tokens": torch.full((1, 6, 6), 41)}],
    ids=str,
)
def test_a_callback_that_returns_nonsense(ours, answer):
    with pytest.raises(RequestError, match="callback_on_step_end"):
        ours(PROMPTS[0], callback_on_step_end=lambda *a: answer, seed=1, **FAST)


# --- what is refused ------------------------------------------------------------------------------

REFUSED = {
    "no prompt": ({"prompt": None}, "prompt: expected a text"),
    "height": ({"height": 13}, "height: expected a multiple of 2, given 13"),
    "steps": ({"num_inference_steps": 0}, "num_inference_steps: expected a whole number from 1"),
    "temperature": ({"temperature": -1}, "temperature: expected a number from 0 to 100, given -1"),
    "temperatures": ({"temperature": (1, 2, 3)}, "temperature: expected a number or two"),
    "top_k": ({"top_k": 1.5}, "top_k: expected a whole number"),
    "top_p": ({"top_p": float("nan")}, "top_p: expected a number from 0 to 1"),
    "min_p": ({"min_p": 2}, "min_p: expected a number from 0 to 1, given 2"),
    "strength": ({"strength": 0.5}, "strength: expected only together with image"),
    "mask alone": ({"mask_image": Image.new("L", (12, 12))}, "mask_image: expected an image with"),
    "weak": ({"image": Image.new("RGB", (12, 12)), "strength": 0.1},
             r"strength: expected at least 0.2, one of 5 steps, given 0.1"),
    "small": ({"image": Image.new("RGB", (1, 12))}, "image: expected at least 2x2 pixels"),
    "images": ({"image": [Image.new("RGB", (12, 12))] * 3}, "image: expected one, 1 .* given 3"),
    "latents": ({"latents": torch.zeros(1, 6, 7, dtype=torch.long)},
                r"latents: expected whole numbers \[1, 6, 6\], given \[1, 6, 7\]"),
    "float latents": ({"latents": torch.zeros(1, 6, 6)}, "latents: expected whole numbers"),
    "unused id": ({"latents": torch.full((1, 6, 6), 42)}, "latents: .* or the mask 40, given 42"),
    "id": ({"latents": torch.full((1, 6, 6), 44)}, "latents: expected tokens 0 to 43, given '44"),
    "long prefix": ({"prefix": [1] * 36}, "prefix: expected 1 to 35 tokens, given '36 tokens'"),
    "no prefix": ({"prefix": []}, r"prefix: expected whole numbers \[n\]"),
    "prefix ids": ({"prefix": [1, 40]}, "prefix: expected tokens 0 to 39, given '1 to 40'"),
    "prefixes": ({"prefix": [[1], [2]]}, r"prefix: expected whole numbers \[1, n\]"),
    "text prefix": ({"prefix": "abc"}, "prefix: expected tokens or a picture"),
    "wide prefix": ({"prefix": Image.new("RGB", (14, 4))},
                    "prefix: expected a picture 12 pixels wide and less than 12 high, a multiple"
                    " of 2, given '14x4'"),
    "whole prefix": ({"prefix": Image.new("RGB", (12, 12))}, "prefix: expected a picture"),
    "two beginnings": ({"prefix": [1], "image": Image.new("RGB", (12, 12))},
                       "prefix: expected only one of latents, prefix and image"),
    "sampler": ({"scheduler": "euler"}, "scheduler: this model has no such argument"),
    "eta": ({"eta": 0.5}, "eta: this model has no such argument, given 0.5"),
    "tensor": ({"callback_on_step_end_tensor_inputs": ["latents"]}, "expected one of tokens"),
    "generators": ({"generator": [generator(), generator()]}, "generator: expected one"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(ours, name):
    call, message = REFUSED[name]
    with pytest.raises(RequestError, match=message):
        ours(**{"prompt": "a cat", "seed": None, **FAST, **call})


def test_arguments_that_ask_for_nothing(ours):
    nothing = {"eta": 0.0, "guidance_rescale": 0.0, "clip_skip": None, "scheduler": None}
    ours("a cat", seed=1, **nothing, **FAST)
    with pytest.raises(TypeError, match="'wand'"):
        ours("a cat", wand=1)


def test_a_prompt_that_is_too_long_is_cut_with_a_warning(ours):
    with pytest.warns(UserWarning, match="the prompt was cut to 77 tokens"):
        ours("a cat " * 80, seed=1, **FAST)


@pytest.fixture
def damaged(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "damaged")


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("vqvae", {"num_vq_embeddings": 30}, "codebook_size 40, but vqvae's num_vq_embeddings is"),
        ("scheduler", {"mask_token_id": 39}, "mask_token_id 39 .* expected 40 to 43"),
        ("scheduler", {"mask_token_id": 44}, "mask_token_id 44 .* expected 40 to 43"),
        ("scheduler", {"mask_token_id": -1}, "mask_token_id is -1, expected 0 to"),
        ("scheduler", {"masking_schedule": "square"}, "masking_schedule is 'square'"),
        ("scheduler", {"_class_name": "DDIMScheduler"}, "_class_name is 'DDIMScheduler'"),
        ("transformer", {"vocab_size": 40}, "vocab_size 40 leaves no token for the mask"),
        ("transformer", {"cond_embed_dim": 31}, "cond_embed_dim 31, but the text encoder gives"),
        ("transformer", {"micro_cond_embed_dim": 31}, "micro_cond_embed_dim is 31, expected 5"),
        ("transformer", {"upsample": True}, "downsample is False, but upsample is True"),
        ("transformer", {"wand": 1}, "unknown keys 'wand'"),
        ("vqvae", {"out_channels": 1}, "vqvae: expected pictures of 3 channels"),
        ("vqvae", {"norm_type": "batch"}, "norm_type is 'batch', expected 'group' or 'spatial'"),
        ("vqvae", {"norm_type": "spatial"}, r"block_out_channels\[0\] 8 is no multiple of the 32"),
        ("text_encoder", {"vocab_size": 100}, "text_encoder's vocab_size is 100"),
    ],
)  # fmt: skip
def test_damaged_configs(damaged, part, changes, message):
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    edit(damaged / part / name, **changes)
    with pytest.raises(ConfigError, match=message):
        pyengine.from_pretrained(damaged, device="cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vqvae": ["diffusers", "AutoencoderKL"]}, "vqvae is .* expected VQModel of diffusers"),
        ({"text_encoder": ["transformers", "CLIPTextModel"]}, "CLIPTextModelWithProjection"),
        ({"scheduler": ["diffusers", "DDIMScheduler"]}, "expected AmusedScheduler of diffusers"),
        ({"transformer": None}, "AmusedPipeline needs transformer too"),
        ({"_class_name": "StableDiffusionPipeline"}, "'vqvae' .* is no part that pyengine knows"),
    ],
)
def test_damaged_indexes(damaged, changes, message):
    edit(damaged / "model_index.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        pyengine.from_pretrained(damaged, device="cpu")


def test_tensors_of_another_size(damaged):
    edit(damaged / "transformer" / "config.json", intermediate_size=30)
    with pytest.raises(CheckpointError, match="misshapen: 'transformer_layers"):
        pyengine.from_pretrained(damaged, device="cpu")


def test_logits_that_are_no_numbers(damaged):
    file = damaged / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors["mlm_layer.conv2.weight"][3, 0] = float("nan")
    save_file(tensors, file)
    pipe = pyengine.from_pretrained(damaged, device="cpu")
    with pytest.raises(CheckpointError, match="logits: expected finite numbers, found NaN in pict"):
        pipe("a cat", seed=1, **FAST)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(folder, dtype):
    pipe = pyengine.from_pretrained(folder, device="cpu", dtype=dtype)
    result = pipe(PROMPTS, seed=1, output_type="np", **FAST)
    assert result.images.shape == (2, 12, 12, 3)
    assert np.isfinite(result.images).all()
    assert result.report.dtype == dtype
