"""ImageGPT: the pixels that transformers generates, completing pictures, and what is refused."""

import json
import shutil
import signal

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import ImageGPTForCausalImageModeling, TopKLogitsWarper, TopPLogitsWarper

import pyengine
from pyengine.errors import CheckpointError, ConfigError, RequestError
from pyengine.pipelines import StopSampling

SOS = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_image_gpt(tmp_path_factory.mktemp("checkpoints") / "imagegpt")


@pytest.fixture(scope="module")
def ours(folder):
    return pyengine.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def theirs(folder):
    return ImageGPTForCausalImageModeling.from_pretrained(folder).eval()


def generate(theirs, context, **how):
    """transformers' tokens after the one that begins a picture: [N, 24]."""
    ids = torch.cat([torch.full((len(context), 1), SOS), torch.as_tensor(context)], dim=1)
    out = theirs.generate(ids.long(), max_length=25, attention_mask=torch.ones_like(ids), **how)
    return out[:, 1:]


@pytest.mark.parametrize("n", [0, 1, 12, 23])
def test_greedy_tokens(ours, theirs, n):
    prefix = torch.randint(0, 16, (3, n), generator=torch.Generator().manual_seed(n))
    want = generate(theirs, prefix, do_sample=False)
    got = ours(prefix=prefix if n else None, temperature=0, num_images_per_prompt=3)
    assert torch.equal(got.tokens.flatten(1), want)
    assert torch.equal(got.tokens.flatten(1)[:, :n], prefix)
    assert got.report.steps == 24 - n


@torch.no_grad()
def test_drawn_tokens(ours, theirs):
    """From transformers' logits without a cache, and its filters, with our numbers."""
    result = ours(seed=[4, 9], temperature=0.8, top_k=9, top_p=0.9, num_images_per_prompt=2)
    for row, seed in enumerate((4, 9)):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.tensor([[SOS]])
        for _ in range(24):
            logits = theirs(ids).logits[:, -1] / 0.8
            for warper in (TopKLogitsWarper(9), TopPLogitsWarper(0.9)):
                logits = warper(None, logits)
            u = torch.rand(1, generator=generator, dtype=torch.float64)
            p = logits.double().softmax(-1)[0]
            token = int((p.cumsum(0) <= u).sum())
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
        assert torch.equal(result.tokens[row].flatten(), ids[0, 1:])
    assert len(result.tokens.unique()) > 4


def test_pixels_are_colours_of_clusters(ours, folder):
    result = ours(seed=1, output_type="np")
    colours = json.loads((folder / "preprocessor_config.json").read_text())["clusters"]
    want = np.array(colours, np.float32)[result.tokens.numpy()] * 0.5 + 0.5
    np.testing.assert_allclose(result.images, want, atol=1e-6)
    picture = ours(seed=1).images[0]
    # As the published example makes pixels of clusters.
    np.testing.assert_array_equal(
        np.asarray(picture), np.rint(127.5 * (np.array(colours)[result.tokens[0]] + 1))
    )
    assert torch.equal(ours(seed=1, output_type="latent").images, result.tokens)


def test_completing_half_a_picture(ours, theirs, folder):
    from transformers.models.imagegpt.image_processing_pil_imagegpt import ImageGPTImageProcessorPil

    pixels = np.random.default_rng(1).integers(0, 256, (4, 6, 3), np.uint8)
    processor = ImageGPTImageProcessorPil.from_pretrained(folder)
    clusters = torch.tensor(np.stack(processor(Image.fromarray(pixels)).input_ids))[:, :12]
    want = generate(theirs, clusters, do_sample=False)
    half = Image.fromarray(pixels[:2])
    for prefix in (half, pixels[:2], torch.tensor(pixels[:2]).permute(2, 0, 1), clusters[0]):
        got = ours(prefix=prefix, temperature=0).tokens
        assert torch.equal(got.flatten(1), want)
    other = Image.fromarray(pixels[2:])
    both = ours(prefix=[half, other], temperature=0, num_images_per_prompt=2).tokens
    assert torch.equal(both[0].flatten(), want[0])
    assert torch.equal(both[1], ours(prefix=other, temperature=0).tokens[0])


def test_a_picture_alone_and_in_a_batch(ours):
    batch = ours(seed=5, num_images_per_prompt=4, output_type="pt")
    for i in range(4):
        alone = ours(seed=5 + i, output_type="pt")
        assert torch.equal(alone.tokens[0], batch.tokens[i])
        assert torch.equal(alone.images[0], batch.images[i])
    assert batch.seeds == [5, 6, 7, 8]
    assert torch.equal(ours(seed=5, num_images_per_prompt=4).tokens, batch.tokens)


def test_one_generator_for_all(ours):
    def draw():
        return ours(generator=torch.Generator().manual_seed(3), num_images_per_prompt=2).tokens

    assert torch.equal(draw(), draw())
    assert not torch.equal(draw()[0], draw()[1])


def test_a_token_that_ends_a_picture(folder, theirs, tmp_path):
    """Each stops for itself, and what follows is padding, as transformers' generate has it."""
    prefix = torch.randint(0, 16, (4, 3), generator=torch.Generator().manual_seed(2))
    plain = generate(theirs, prefix, do_sample=False)
    end = int(plain[0, 11])
    where = shutil.copytree(folder, tmp_path / "ends")
    edit(where / "config.json", eos_token_id=end, pad_token_id=7)
    pipe = pyengine.from_pretrained(where, device="cpu")
    seen = []

    def watch(pipe, step, timestep, tensors):
        seen.append(tensors["tokens"].clone())

    got = pipe(prefix=prefix, temperature=0, num_images_per_prompt=4, callback_on_step_end=watch)
    want = generate(theirs, prefix, do_sample=False, eos_token_id=end, pad_token_id=7)
    want = torch.nn.functional.pad(want, (0, 24 - want.shape[1]), value=7)
    assert torch.equal(got.tokens.flatten(1), want)
    ends = [(row[3:] == end).nonzero()[:1, 0].tolist() for row in want]
    assert len({tuple(e) for e in ends}) > 1, "the rows should end at different places"
    assert not got.report.interrupted
    last = max((e[0] + 1 if e else 21) for e in ends)
    assert got.report.steps == len(seen) == last
    sampled = pipe(seed=11, num_images_per_prompt=6)
    for i in range(6):
        assert torch.equal(pipe(seed=11 + i).tokens[0], sampled.tokens[i])


# --- stopping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["interrupt", "exception"])
def test_a_callback_stops_within_the_token(ours, how):
    seen = []

    def stop(pipe, step, timestep, tensors):
        seen.append((step, timestep, tensors["tokens"]))
        if step == 4:
            if how == "exception":
                raise StopSampling
            pipe.interrupt()

    result = ours(prefix=[1, 2], seed=1, callback_on_step_end=stop, output_type="np")
    assert [s[:2] for s in seen] == [(i, i + 2) for i in range(5)]
    assert result.report.interrupted
    assert result.report.steps == 5
    flat = result.tokens.flatten()
    assert torch.equal(flat, seen[-1][2][0])
    assert (flat[:7] >= 0).all()
    assert (flat[7:] == -1).all()
    assert (result.images[0].reshape(-1, 3)[7:] == 0.5).all()
    whole = ours(prefix=[1, 2], seed=1)
    assert not whole.report.interrupted
    assert torch.equal(whole.tokens.flatten()[:7], flat[:7])


def test_ctrl_c_stops_within_the_token_and_the_pipeline_lives(ours):
    steps = []

    def press(pipe, step, timestep, tensors):
        steps.append(step)
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        ours(seed=1, callback_on_step_end=press)
    assert steps == [0, 1, 2, 3]
    assert ours(seed=1).report.steps == 24


def test_a_callback_changes_the_token_drawn_last(ours, theirs):
    def callback(pipe, step, timestep, tensors):
        if step < 12:
            tensors["tokens"][:, timestep] = 5
            return tensors
        return None

    got = ours(temperature=0, callback_on_step_end=callback)
    want = generate(theirs, torch.full((1, 12), 5), do_sample=False)
    assert torch.equal(got.tokens.flatten(1), want)


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda t: t[:, :3], "an integer tensor"), (lambda t: t.float(), "an integer tensor"),
     (lambda t: t + 1, "only at place 2"), (lambda t: t.index_fill(1, torch.tensor(2), 16),
                                            "tokens 0 to 15, given '16 to 16'")],
)  # fmt: skip
def test_a_callback_that_returns_nonsense(ours, change, message):
    def callback(pipe, step, timestep, tensors):
        return {"tokens": change(tensors["tokens"])} if step == 2 else None

    with pytest.raises(RequestError, match=f"callback_on_step_end: tokens: expected .*{message}"):
        ours(seed=1, callback_on_step_end=callback)


# --- what is refused ------------------------------------------------------------------------------

REFUSED = {
    "prompt": ({"prompt": "a cat"}, "prompt: this model has no such argument, given 'a cat'"),
    "height": ({"height": 8}, "height: expected 4, the model's only one, given 8"),
    "guidance": ({"guidance_scale": 3.0}, "guidance_scale: this model has no such argument"),
    "steps": ({"num_inference_steps": 5}, "num_inference_steps: this model has no such"),
    "long prefix": ({"prefix": [1] * 24}, "prefix: expected 1 to 23 tokens, given '24 tokens'"),
    "prefix ids": ({"prefix": [16]}, "prefix: expected tokens 0 to 15, given '16 to 16'"),
    "rows": ({"prefix": [[1], [2]]}, r"prefix: expected whole numbers \[1, n\], given \[2, 1\]"),
    "ragged": ({"prefix": [[1], [2, 3]]}, "prefix: expected tokens or a picture"),
    "fractions": ({"prefix": [0.5]}, "prefix: expected whole numbers"),
    "wide": ({"prefix": Image.new("RGB", (7, 2))},
             "prefix: expected a picture 6 pixels wide and less than 4 high, given '7x2'"),
    "whole": ({"prefix": Image.new("RGB", (6, 4))}, "less than 4 high, given '6x4'"),
    "pictures": ({"prefix": [Image.new("RGB", (6, 2))] * 2}, "prefix: expected one picture, or 1"),
    "temperature": ({"temperature": (1, 2)}, "temperature: expected a number from 0 to 100"),
    "top_k": ({"top_k": -1}, "top_k: expected a whole number from 0"),
    "number": ({"num_images_per_prompt": 0}, "num_images_per_prompt: expected a whole number"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(ours, name):
    call, message = REFUSED[name]
    with pytest.raises(RequestError, match=message):
        ours(**call)


def edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def damaged(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "damaged")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("preprocessor", {"clusters": [[0.0, 0, 0]] * 15}, "clusters has 15 colours, but vocab_s"),
        ("preprocessor", {"clusters": [[0.0, 0, 3]] * 16}, "clusters is 3, expected -1.01 to"),
        ("preprocessor", {"clusters": [[0.0, 0]] * 16}, "clusters has 2 items, expected 3"),
        ("preprocessor", {"clusters": None}, "clusters must be"),
        ("preprocessor", {"size": 5}, "size 5x5 takes 25 positions, but n_positions is 24"),
        ("preprocessor", {"size": {"height": 4}}, "size: width is missing"),
        ("preprocessor", {"wand": 1}, "unknown keys 'wand'"),
        ("model", {"n_head": 5}, "n_embd 12 is no multiple of n_head 5"),
        ("model", {"eos_token_id": 16}, "eos_token_id 16 is no cluster: expected 0 to 15"),
        ("model", {"tie_word_embeddings": True}, "tie_word_embeddings is True, expected False"),
        ("model", {"activation_function": "relu"}, "activation_function is 'relu'"),
        ("model", {"n_layer": 10**9}, "n_layer is 1000000000"),
        ("model", {"auto_map": {"AutoModel": "evil.py"}}, "auto_map would run code"),
    ],
)
def test_damaged_configs(damaged, file, changes, message):
    name = "config.json" if file == "model" else "preprocessor_config.json"
    edit(damaged / name, **changes)
    with pytest.raises(ConfigError, match=message):
        pyengine.from_pretrained(damaged, device="cpu")


def test_a_vocabulary_that_disagrees_with_the_tensors(damaged):
    edit(damaged / "config.json", vocab_size=18)
    look = json.loads((damaged / "preprocessor_config.json").read_text())
    edit(damaged / "preprocessor_config.json", clusters=[*look["clusters"], [0, 0, 0]])
    with pytest.raises(CheckpointError, match=r"'lm_head.weight' is \[16, 12\], expected \[17"):
        pyengine.from_pretrained(damaged, device="cpu")


def test_files_that_are_missing(damaged):
    (damaged / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"preprocessor_config.json: no such file"):
        pyengine.from_pretrained(damaged, device="cpu")
    (damaged / "model.safetensors").rename(damaged / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="only pickles"):
        pyengine.from_pretrained(damaged, device="cpu")
    edit(damaged / "config.json", model_type="gpt2")
    with pytest.raises(CheckpointError, match="one model, not a whole checkpoint"):
        pyengine.from_pretrained(damaged, device="cpu")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers(damaged, bad):
    tensors = load_file(damaged / "model.safetensors")
    tensors["transformer.wpe.weight"][5, 0] = bad
    save_file(tensors, damaged / "model.safetensors")
    pipe = pyengine.from_pretrained(damaged, device="cpu")
    with pytest.raises(CheckpointError, match=r"logits: .* found NaN in picture 0 at step 5"):
        pipe(seed=1)


def test_more_pictures_than_the_machine_has_room_for(ours, monkeypatch):
    import pyengine.weights.load as module

    # 2 layers, keys and values of 12 float32: 192 bytes a token, 24 tokens a picture.
    monkeypatch.setattr(module.os, "sysconf", {"SC_PHYS_PAGES": 9, "SC_PAGE_SIZE": 512}.get)
    assert ours(seed=1).report.steps == 24
    with pytest.raises(RequestError, match="num_images_per_prompt: expected fewer pictures"):
        ours(seed=1, num_images_per_prompt=2)
    jobs = ours.prepare(ours.request(seed=1))
    with pytest.raises(RequestError, match=r"keys and values of 1 rows take .* those of other job"):
        ours(seed=1)
    assert jobs[0].active
    del jobs
    assert ours(seed=1).report.steps == 24


def test_defaults_of_a_checkpoint(damaged):
    (damaged / "pyengine.json").write_text('{"temperature": 0.0}')
    pipe = pyengine.from_pretrained(damaged, device="cpu")
    assert torch.equal(pipe(seed=1).tokens, pipe(seed=2, temperature=0).tokens)
    (damaged / "pyengine.json").write_text('{"top_p": 7}')
    with pytest.raises(ConfigError, match="top_p is 7, expected 0 to 1"):
        pyengine.from_pretrained(damaged, device="cpu")
