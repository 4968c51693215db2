"""`pyengine generate`: files, settings, repeating a picture, refusals."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pyengine import __version__, metadata

FAST = ("--steps", "2", "--height", "32", "--width", "40")


@pytest.fixture
def generate(run, model):
    def call(*arguments, ok=True):
        status, out, err = run("generate", *arguments, "--model", model)
        assert status == 0 or not ok, err
        return (out, err) if ok else (status, out, err)

    return call


def pixels(path):
    return np.asarray(Image.open(path))


def test_the_default_file_is_named_after_the_prompt(generate, tmp_path):
    out, err = generate("A red  heart!", "--seed", "1", *FAST)
    path = tmp_path / "out" / "a-red-heart.png"
    assert path.exists()
    assert out.splitlines()[0] == os.path.join("out", "a-red-heart.png")
    assert "seed 1" in out
    for stage in ("load", "encode prompt", "denoise", "decode", "total"):
        assert re.search(rf"{stage} \d+\.\d\d s", out)
    assert re.search(r"kernels: .*conv2d \w+", out)
    assert err == ""
    assert Image.open(path).size == (40, 32)


def test_the_settings_in_the_file(generate, tmp_path):
    generate(
        "a cat",
        "--negative",
        "a dog",
        "--seed",
        "5",
        "--scheduler",
        "euler",
        "--guidance",
        "4.5",
        "-o",
        "x.png",
        *FAST,
    )
    settings = metadata.read(tmp_path / "x.png")
    assert (settings.prompt, settings.negative_prompt, settings.seed) == ("a cat", "a dog", 5)
    assert (settings.steps, settings.sampler, settings.guidance_scale) == (2, "euler", 4.5)
    assert (settings.height, settings.width) == (32, 40)
    assert settings.model == "tiny-sd"
    assert re.fullmatch("[0-9a-f]{64}", settings.model_hash)
    assert settings.version == __version__
    text = Image.open(tmp_path / "x.png").info["parameters"]
    assert "Steps: 2, Sampler: Euler, CFG scale: 4.5, Seed: 5, Size: 40x32" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    "options",
    [
        ("--seed", "3"),
        ("--scheduler", "euler_ancestral", "--guidance-rescale", "0.5"),
        ("--scheduler", "ddim", "--eta", "0.5", "--clip-skip", "1", "--negative", "blue"),
        ("-n", "3", "--seed", "9", "--grid"),
    ],
    ids=" ".join,
)
def test_from_a_picture_repeats_it_bit_by_bit(generate, tmp_path, options):
    generate("a red heart", "-o", "first.png", *options, *FAST)
    _, err = generate("--from", "first.png", "-o", "again.png")
    assert err == ""
    assert np.array_equal(pixels(tmp_path / "first.png"), pixels(tmp_path / "again.png"))
    assert metadata.read(tmp_path / "first.png") == metadata.read(tmp_path / "again.png")


def test_weights_in_8_bits_are_a_setting_of_the_picture(generate, tmp_path):
    generate("a cat", "--seed", "4", "-o", "plain.png", *FAST)
    out, _ = generate("a cat", "--seed", "4", "--weights", "fp8", "-o", "fp8.png", *FAST)
    assert "float32 with weights in fp8 on cpu" in out
    names = ("plain.png", "fp8.png")
    assert [metadata.read(tmp_path / name).weights for name in names] == [None, "fp8"]
    assert not np.array_equal(*(pixels(tmp_path / name) for name in names))
    generate("--from", "fp8.png", "-o", "again.png")
    assert np.array_equal(pixels(tmp_path / "fp8.png"), pixels(tmp_path / "again.png"))


def test_from_one_of_several_repeats_that_one(generate, tmp_path):
    out, _ = generate("a cat", "-n", "3", "--seed", "9", "-o", "many.png", *FAST)
    names = ["many-1.png", "many-2.png", "many-3.png"]
    assert out.splitlines()[:3] == names
    assert [metadata.read(tmp_path / n).seed for n in names] == [9, 10, 11]
    generate("--from", "many-2.png", "-o", "again.png")
    assert np.array_equal(pixels(tmp_path / "many-2.png"), pixels(tmp_path / "again.png"))
    assert not np.array_equal(pixels(tmp_path / "many-1.png"), pixels(tmp_path / "again.png"))


def test_from_with_changes(generate, tmp_path):
    generate("a cat", "--seed", "4", "-o", "first.png", *FAST)
    generate("--from", "first.png", "--steps", "3", "-o", "second.png")
    settings = metadata.read(tmp_path / "second.png")
    assert (settings.steps, settings.seed, settings.prompt) == (3, 4, "a cat")
    generate("a dog", "--from", "first.png", "-o", "third.png")
    assert metadata.read(tmp_path / "third.png").prompt == "a dog"


def test_from_a_picture_of_other_weights_says_so(run, generate, tmp_path):
    generate("a cat", "--seed", "4", "-o", "first.png", *FAST)
    other = tiny.write_sd1(tmp_path / "other", seed=3, unet={"layers_per_block": 1})
    status, _, err = run("generate", "--from", "first.png", "-o", "x.png", "--model", other)
    assert status == 0
    assert "warning" in err
    assert "look different" in err


def test_from_does_not_choose_what_is_loaded(run, generate):
    generate("a cat", "--seed", "4", "-o", "first.png", *FAST)
    status, _, err = run("generate", "--from", "first.png")
    assert status == 2
    assert "--model" in err


def test_from_a_picture_made_of_another_asks_for_it(generate, tmp_path):
    Image.new("RGB", (40, 32), "teal").save(tmp_path / "init.png")
    Image.new("RGB", (40, 32), "gold").save(tmp_path / "other.png")
    options = ("--steps", "4", "--strength", "0.5", "--seed", "1")
    generate("a cat", "--init-image", "init.png", "-o", "first.png", *options)
    status, _, err = generate("--from", "first.png", ok=False)
    assert (status, "--init-image" in err) == (2, True)
    _, err = generate("--from", "first.png", "--init-image", "init.png", "-o", "again.png")
    assert err == ""
    assert np.array_equal(pixels(tmp_path / "first.png"), pixels(tmp_path / "again.png"))
    _, err = generate("--from", "first.png", "--init-image", "other.png", "-o", "x.png")
    assert "not the picture that was used before" in err


def test_inpainting(generate, tmp_path):
    Image.new("RGB", (40, 32), "teal").save(tmp_path / "init.png")
    mask = Image.new("L", (40, 32))
    mask.paste(255, (0, 0, 20, 32))
    mask.save(tmp_path / "mask.png")
    generate("a cat", "--init-image", "init.png", "--mask", "mask.png", "-o", "x.png", *FAST)
    settings = metadata.read(tmp_path / "x.png")
    assert settings.mask
    assert settings.strength == 1.0


def test_json(generate):
    out, err = generate("a cat", "-n", "2", "--seed", "3", "--json", *FAST)
    answer = json.loads(out)
    assert [Path(f).name for f in answer["files"]] == ["a-cat-1.png", "a-cat-2.png"]
    assert answer["settings"]["first_seed"] == 3
    assert answer["report"]["kernels"]
    assert answer["report"]["seconds"]["load"] > 0
    assert err == ""


def test_output_into_a_folder(generate, tmp_path):
    generate("a cat", "-o", tmp_path / "pictures", *FAST)
    assert (tmp_path / "pictures" / "a-cat.png").exists()


def test_a_cut_prompt_is_a_warning(generate):
    _, err = generate("red heart " * 60, *FAST)
    assert re.search("warning: the prompt was cut to 77 tokens", err)
    assert len(err.splitlines()) == 1


# --- refusals -------------------------------------------------------------------------------------

BAD = [
    ((), "prompt: "),
    (("a cat", "--steps", "0"), "--steps: expected a whole number from 1 to 100000, given 0"),
    (("a cat", "--steps", "many"), "--steps: expected a whole number, given 'many'"),
    (("a cat", "--seed", "-1"), "--seed: expected a whole number from 0 to "),
    (("a cat", "--seed", "1.5"), "--seed: expected a whole number, given '1.5'"),
    (("a cat", "--scheduler", "eular"), "--scheduler: "),
    (("a cat", "--height", "33"), "--height: expected a multiple of 8, given 33"),
    (("a cat", "--width", "100000"), "--width: "),
    (("a cat", "--height", "8192", "--width", "8192"), "--height, --width: "),
    (("a cat", "-n", "0"), "--number: expected a whole number from 1, given '0'"),
    (("a cat", "-n", "100000"), "--number: "),
    (("a cat", "--guidance", "nan"), "--guidance: expected a number, given 'nan'"),
    (("a cat", "--guidance", "-1"), "--guidance: expected a number from 0 to 1000, given -1"),
    (("a cat", "--guidance-rescale", "2"), "--guidance-rescale: expected a number from 0 to 1"),
    (("a cat", "--eta", "2"), "--eta: expected a number from 0 to 1, given 2"),
    (("a cat", "--clip-skip", "-2"), "--clip-skip: expected a whole number from 0 to "),
    (("a cat", "--strength", "0.5"), "--strength: "),
    (("a cat", "--mask", "nowhere.png"), "--mask: no such file"),
    (("a cat", "--init-image", "nowhere.png"), "--init-image: no such file"),
    (("a cat", "--device", "tpu"), "--device: "),
    (("a cat", "--dtype", "int4"), "--dtype: "),
    (("a cat", "--weights", "fp4"), "--weights: expected int8, fp8 or None, given 'fp4'"),
    (("a cat", "-o", "x.gif"), "--output: expected a .png file, or a folder ending in /"),
    (("a cat", "--from", "nowhere.png"), "--from: no such file"),
    (("a cat", "--nonsense"), "--nonsense"),
    (("a cat", "and", "more"), "more"),
]


@pytest.mark.parametrize(("arguments", "text"), BAD, ids=lambda v: " ".join(v)[:40])
def test_refusals_are_one_sentence(generate, tmp_path, arguments, text):
    status, out, err = generate(*arguments, ok=False)
    assert status == 2
    assert text in err
    assert len(err.splitlines()) == 1
    assert err.startswith("pyengine: ")
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", ["", "nowhere/at/all", "nowhere.safetensors", "x.ckpt", "."])
def test_models_that_are_none(run, model, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    status, out, err = run("generate", "a cat", "--model", model)
    assert (status, out, len(err.splitlines())) == (2, "", 1)


@pytest.mark.parametrize("change", [{"model": "\x1b[2J"}, {"steps": "\x1b[31m"}, {"\x1b[31m": 1}])
def test_a_strangers_text_cannot_write_to_the_terminal(run, tmp_path, change):
    data = {"format": 1, **dataclasses.asdict(metadata.Settings(prompt="x")), **change}
    info = PngInfo()
    info.add_text("pyengine", json.dumps(data))
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", pnginfo=info)
    status, out, err = run("generate", "--from", "x.png")
    assert status == 2
    assert "\x1b" not in out + err


def test_an_unexpected_error_is_one_line_too(generate, monkeypatch):
    import pyengine.cli.generate as module

    def broken(*args, **kwargs):
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(module, "from_pretrained", broken)
    status, _, err = generate("a cat", ok=False)
    assert status == 1
    assert len(err.splitlines()) == 1
    assert "bug" in err
    monkeypatch.setenv("PYENGINE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        generate("a cat", ok=False)


# --- as a process ---------------------------------------------------------------------------------


def environment():
    root = str(Path(metadata.__file__).resolve().parent.parent)
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def test_ctrl_c_ends_it_with_130_and_leaves_no_file(model, tmp_path):
    command = [sys.executable, "-m", "pyengine", "generate", "a cat", "--model", model, "--steps",
               "900", "--height", "256", "--width", "256", "-o", "x.png"]  # fmt: skip
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    # Ctrl-C while Python still imports is Python's own affair: wait until the kernels are there,
    # and until the process has computed for a while, however long a busy machine takes over it.
    deadline = time.monotonic() + 300
    maps, stat = (Path(f"/proc/{process.pid}/{name}") for name in ("maps", "stat"))

    def computed():  # in hundredths of a second
        return sum(map(int, stat.read_text().rsplit(")", 1)[1].split()[11:13]))

    while time.monotonic() < deadline and "/pyengine/_core" not in maps.read_text():
        time.sleep(0.1)
    begun = computed()
    while time.monotonic() < deadline and computed() < begun + 200:
        time.sleep(0.1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    assert err.strip().endswith("pyengine: stopped")
    assert "Traceback" not in err
    assert out == ""
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "words"), [("emoji", ["--steps", "2"]), ("emoji-ar", ["-m", "emoji-ar"])]
)
def test_the_models_that_ship(run, tmp_path, name, words):
    status, _, err = run("generate", "a red heart", "--seed", "1", *words)
    assert (status, err) == (0, "")
    settings = metadata.read(tmp_path / "out" / "a-red-heart.png")
    assert settings.model == name
    status, _, err = run("generate", "--from", "out/a-red-heart.png", "-o", "again.png")
    assert (status, err) == (0, "")
    first, again = pixels(tmp_path / "out" / "a-red-heart.png"), pixels(tmp_path / "again.png")
    assert np.array_equal(first, again)
