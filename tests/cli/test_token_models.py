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
    "gpt": tiny.write_picture_gpt,
}
#: (height, width) of their pictures.
SIZES = {"amused": (12, 12), "imagegpt": (4, 6), "janus": (6, 6), "gpt": (10, 10)}


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
        ((*wrong, "--scheduler", "ddim"), "prompt|--scheduler: this model has no such argument"),
        (("a cat", "-m", folder, "--top-p", "7"), "--top-p: expected a number from 0 to 1"),
    ):
        status, out, err = run("generate", *arguments)
        assert (status, out) == (2, "")
        assert re.search(expected, err), err


def test_stable_diffusion_draws_no_tokens(run, model):
    for option, value in (("--temperature", "1"), ("--top-k", "3")):
        status, _, err = run("generate", "a cat", "-m", model, option, value)
        assert status == 2
        assert f"{option}: this model draws no tokens" in err


def test_info(run, token_model):
    kind, folder = token_model
    status, out, err = run("info", folder)
    assert (status, err) == (0, "")
    facts = {
        "amused": ["AmusedPipeline", "codebook_size 40", "num_vq_embeddings 40",
                   "scheduler: masked: .*mask_token_id 40"],
        "imagegpt": ["ImageGPTForCausalImageModeling", "vocab_size 17", "n_positions 24"],
        "janus": ["JanusForConditionalGeneration", "num_embeddings 30", "num_image_tokens 9"],
        "gpt": ["PictureGPTPipeline", "num_vq_embeddings 40", "tokens: picture_tokens 40"],
    }  # fmt: skip
    for fact in facts[kind]:
        assert re.search(fact, out), out
    assert ("scheduler" in out) == (kind == "amused")
    assert re.search("hash: [0-9a-f]{64}", out)
    status, out, _ = run("info", folder, "--json")
    assert json.loads(out)["parameters"] > 1000


def test_preview(run, token_model, tmp_path, monkeypatch):
    """Every look at it: grey where nothing is drawn yet; in the end the picture itself."""
    from pyengine.cli import preview

    kind, folder = token_model
    prompt = () if kind == "imagegpt" else ("a red heart",)
    call = ("generate", *prompt, "-m", folder, "--seed", "1", "-o", "x.png", "--preview", "p.png")
    if kind != "gpt":
        status, _, err = run(*call)
        assert status == 2
        assert "preview: this model does not draw one token after another" in err
        return
    monkeypatch.setattr(preview, "PAUSE", 0)
    looks, save = [], preview.pictures.save_atomically

    def look(image, path, **options):
        looks.append(np.asarray(image))
        return save(image, path, **options)

    monkeypatch.setattr(preview.pictures, "save_atomically", look)
    status, _, err = run(*call)
    assert (status, err) == (0, "")
    assert len(looks) == 25 + 2  # tokens, the finished preview and the picture
    grey = round(0.85 * 255)
    for i, image in enumerate(looks[:24]):
        row, column = divmod(i + 1, 5)
        rest = image[2 * row :, :].copy()
        assert (rest[2:] == grey).all()
        assert (rest[:2, 2 * column :] == grey).all()
    assert np.array_equal(pixels(tmp_path / "p.png"), pixels(tmp_path / "x.png"))
    status, _, err = run(*call[:-1], "p.jpg")
    assert status == 2
    assert "preview: expected a .png file" in err


def test_terminals_that_show_pictures():
    import base64
    import io

    from pyengine.cli import preview

    assert preview.protocol({"TERM": "xterm-kitty"}, True) == "kitty"
    assert preview.protocol({"TERM_PROGRAM": "iTerm.app"}, True) == "iterm"
    assert preview.protocol({"TERM": "xterm-kitty"}, False) is None
    assert preview.protocol({"TERM": "xterm-256color"}, True) is None
    assert preview.protocol({"TERM": "xterm-kitty", "TMUX": "x"}, True) is None
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    commands = preview.escape(Image.fromarray(noise), "kitty").split("\x1b\\")
    assert commands.pop() == ""
    assert len(commands) > 2
    assert all(c.startswith("\x1b_G") and len(c) < 4200 for c in commands)
    assert [c[3:].split(";")[0][-3:] for c in commands] == ["m=1"] * (len(commands) - 1) + ["m=0"]
    data = "".join(c.split(";")[1] for c in commands)
    for encoded in (data, preview.escape(Image.fromarray(noise), "iterm").split(":")[1][:-3]):
        shown = Image.open(io.BytesIO(base64.b64decode(encoded)))
        assert np.array_equal(np.asarray(shown), noise)


def test_a_named_model_that_does_not_ship(run):
    from pyengine.pipelines.loading import shipped_folder

    if (shipped_folder("emoji-ar") / "model_index.json").exists():
        pytest.skip("emoji-ar ships")
    status, _, err = run("generate", "a red heart", "-m", "emoji-ar")
    assert status == 2
    assert "this build ships no model emoji-ar" in err


def test_fewer_passes_draw_the_same_picture(run, token_model, tmp_path):
    kind, folder = token_model
    prompt = () if kind == "imagegpt" else ("a red heart",)
    plain = ("generate", *prompt, "-m", folder, "--seed", "4")
    fast = (*plain, "--decoding", "jacobi", "--window", "6", "-o", "fast.png")
    if kind == "amused":
        status, out, err = run(*fast)
        assert (status, out) == (2, "")
        assert "decoding: this model has no such argument" in err
        return
    assert run(*plain, "-o", "plain.png")[0] == 0
    status, out, err = run(*fast)
    assert (status, err) == (0, "")
    assert re.search(r"^  [0-9.]+ tokens a pass$", out, re.MULTILINE)
    if kind == "gpt":
        assert run(*fast, "--preview", "growing.png")[0] == 0
    assert np.array_equal(pixels(tmp_path / "fast.png"), pixels(tmp_path / "plain.png"))
    assert metadata.read(tmp_path / "fast.png") == metadata.read(tmp_path / "plain.png")
    status, out, _ = run(*fast, "--json")
    report = json.loads(out)["report"]
    assert report["tokens_per_pass"] == report["tokens"] / report["passes"] >= 1


def test_other_draws_are_remembered(run, token_model, tmp_path):
    kind, folder = token_model
    if kind == "amused":
        return
    prompt = () if kind == "imagegpt" else ("a red heart",)
    how = ("--decoding", "jacobi-gumbel", "--window", "5", "--seed", "4", "-o", "one.png")
    assert run("generate", *prompt, "-m", folder, *how)[0] == 0
    assert metadata.read(tmp_path / "one.png").decoding == "jacobi-gumbel"
    assert run("generate", "--from", "one.png", "-m", folder, "-o", "again.png")[0] == 0
    assert np.array_equal(pixels(tmp_path / "one.png"), pixels(tmp_path / "again.png"))
