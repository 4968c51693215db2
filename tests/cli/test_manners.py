"""The command line as a program among others: streams, words, help, completion, hints."""

import io
import json
import re
import shutil
import subprocess
import sys

import pytest
import tiny
import typer
from test_generate import environment

from pyengine import metadata
from pyengine.cli import concepts, naming, values
from pyengine.decoding import request
from pyengine.pipelines import arguments, loading, placing
from pyengine.pipelines.shipped_names import shipped_names
from pyengine.schedules import SAMPLER_NAMES
from pyengine.weights import TIERS

FAST = ("--steps", "1", "--height", "32", "--width", "32")


# --- streams --------------------------------------------------------------------------------------


def shell(line, **more):
    """(exit status, standard error) of a shell's line; $P is the program."""
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False,
        env={**environment(), "P": f"{sys.executable} -m pyengine", **more},
    )  # fmt: skip
    return done.returncode, done.stderr


STREAMS = [
    ("$P --version >/dev/full", 1, "standard output cannot be written: No space left on device"),
    ("$P --version >&-", 1, "standard output cannot be written: Bad file descriptor"),
    ("$P generate --help >/dev/full", 1, "standard output cannot be written: No space left"),
    ("$P info --json >/dev/full", 1, "standard output cannot be written: No space left"),
    ("$P info >&-", 1, "standard output cannot be written: Bad file descriptor"),
    ("$P info >&- 2>&-", 1, None),
    ("$P info nowhere/at/all 2>&-", 2, None),
    ("$P info nowhere/at/all 2>/dev/full", 2, None),
    ("$P generate >/dev/full", 2, "prompt: expected a prompt"),
    ("$P info 0<&-", 0, None),
    ("set -o pipefail; $P info | head -0", 0, None),
    ("set -o pipefail; $P generate --help | head -1", 0, None),
    ("test -z \"$($P info nowhere/at/all 2>&-)\"", 0, None),  # nothing strays to standard output
]  # fmt: skip


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("line", "status", "text"), STREAMS, ids=[s[0] for s in STREAMS])
def test_streams_that_are_closed_or_full(line, status, text, unbuffered):
    if unbuffered and "/dev/full" not in line:
        pytest.skip("buffers matter where the stream is full")
    got, err = shell(line, PYTHONUNBUFFERED=unbuffered)
    assert got == status, err
    assert "Traceback" not in err
    assert "bug" not in err
    assert "Exception ignored" not in err
    if text is None:
        assert err == ""
    else:
        assert err.startswith(f"pyengine: {text}")
        assert len(err.splitlines()) == 1


def test_the_picture_is_there_though_nobody_could_be_told(model, tmp_path):
    line = f"cd {tmp_path} && $P generate 'a cat' --model {model} {' '.join(FAST)} >&-"
    assert shell(line)[0] == 1
    assert metadata.read(tmp_path / "out" / "a-cat.png").prompt == "a cat"


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "text", "said"),
    [
        ("generate", "num_inference_steps: expected", "--steps: expected"),
        ("generate", "height, width: expected", "--height, --width: expected"),
        ("generate", "steps: with num_images_per_prompt 3", "--steps: with --number 3"),
        ("generate", "init-image: no such file: 'x'", "--init-image: no such file: 'x'"),
        ("generate", "prompt: expected", "prompt: expected"),
        ("generate", "some file: height: 3", "some file: height: 3"),
        ("info", "guidance_scale: expected", "guidance_scale: expected"),
        ("info", "plan: no", "--plan: no"),
        ("bench ops", "without: expected", "--without: expected"),
        ("nothing", "without: expected", "without: expected"),
    ],
)
def test_errors_name_options(command, text, said):
    assert naming.in_options(text, command.split()) == said


def every_command():
    def below(command, path):
        yield path, command
        for name, inner in getattr(command, "commands", {}).items():
            yield from below(inner, (*path, name))

    from pyengine.cli.app import app

    return list(below(typer.main.get_command(app), ()))


COMMANDS = [pytest.param(p, c, id=" ".join(p) or "pyengine") for p, c in every_command()]
each_command = pytest.mark.parametrize(("path", "command"), COMMANDS)


@each_command
def test_help_is_told_in_words(run, path, command):
    status, out, err = run(*path, "--help")
    assert (status, err) == (0, "")
    # No class of Python's, no bounds in brackets: what an option takes is said in its text.
    assert not re.search(r"<(?!prompt>|lora:)|range\]|x>=|list\[", out), out
    for param in command.params:
        if param.name == "help":
            continue
        assert param.help, f"{param.name} has no help"
        value = param.default
        if value not in (None, False, ()) and not isinstance(value, list):
            assert str(value) in out.replace("\n", " "), f"the default of {param.name}"


@each_command
def test_bounds_are_told_in_one_way(run, path, command):
    for param in command.params:
        if param.metavar not in ("N", "X"):
            continue
        name = next(o for o in param.opts if o.startswith("--"))
        status, out, err = run(*path, name, "many")
        what = "a whole number" if param.metavar == "N" else "a number"
        assert (status, out, len(err.splitlines())) == (2, "", 1)
        bounds = r"( from \d+| above 0)?"
        assert re.match(rf"pyengine: {name}: expected {what}{bounds}, given 'many'; see", err), err
        bound = re.search(r"from (\d+)", err)
        if bound:
            _, _, err = run(*path, name, int(bound[1]) - 1)
            assert f"{name}: expected {what} from {bound[1]}, given '{int(bound[1]) - 1}'" in err


def test_json_is_a_flag_wherever_it_is(run):
    found = {path: p for path, c in every_command() for p in c.params if p.name == "json"}
    assert {("generate",), ("info",), ("doctor",), ("bench", "ops"), ("eval",)} <= set(found)
    assert all(p.is_flag and p.opts == ["--json"] for p in found.values())


def test_the_lists_that_are_copied_for_speed_are_true():
    assert set(arguments.SAMPLERS) == set(SAMPLER_NAMES)
    assert loading.NAMED == values.MODELS
    assert tuple(placing.DTYPES) == values.DTYPES
    assert request.DECODINGS == arguments.DECODINGS
    assert tuple(TIERS) == values.TIERS


def test_the_defaults_in_the_help_are_the_models():
    def saved(name):
        return json.loads((loading.shipped_folder(name) / "pyengine.json").read_text())

    models = {name: saved(name) for name in loading.NAMED}
    found = [
        (row.name, float(number), models[name])
        for row in arguments.OPTIONS
        for number, name in re.findall(r"([\d.]+) for ([\w-]+)", row.shown or "")
        if row.name not in ("height", "width")
    ]
    assert len(found) == 6
    for argument, number, defaults in found:
        assert defaults[argument] == number, argument


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("generate", "x", "--scheduler", "eu"), {"euler", "euler_ancestral"}),
        (("generate", "x", "--dtype", ""), {"float32", "float16", "bfloat16"}),
        (("generate", "x", "--device", "c"), {"cpu", "cuda", "cuda:0"}),
        (("generate", "x", "--weights", ""), {"int8", "fp8"}),
        (("generate", "x", "--decoding", "j"), {"jacobi", "jacobi-gumbel"}),
        (("generate", "x", "-m", "emo"), set(shipped_names())),
        (("info", "emoji-"), set(shipped_names()) - {"emoji"}),
        (("bench", "unet", "--model", ""), {"ddpm", "if", "sd15", "sdxl", "unclip"}),
        (("bench", "unet", "--dtype", "b"), {"bfloat16"}),
    ],
)
def test_completion_offers_values(tmp_path, words, offered):
    done = subprocess.run(
        [sys.executable, "-m", "pyengine"], capture_output=True, text=True, check=False,
        cwd=tmp_path,
        env={**environment(), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
             "_PYENGINE_COMPLETE": "complete_bash",
             "COMP_WORDS": " ".join(("pyengine", *words)), "COMP_CWORD": str(len(words))},
    )  # fmt: skip
    assert set(done.stdout.split()) == offered, done.stderr


def test_completion_of_models_offers_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sd").mkdir()
    (tmp_path / "sd.safetensors").touch()
    (tmp_path / "sd.ckpt").touch()
    assert values.models("s") == ["sd/", "sd.safetensors"]
    assert values.models("") == [*shipped_names(), "sd/", "sd.safetensors"]


# --- what is taken --------------------------------------------------------------------------------


def test_a_prompt_from_standard_input(run, model, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("a cat\n"))
    status, out, err = run("generate", "-", "--model", model, *FAST)
    assert status == 0, err
    assert metadata.read(tmp_path / "out" / "a-cat.png").prompt == "a cat"
    for nothing in (io.StringIO(" \n"), io.TextIOWrapper(io.BytesIO(b"\xff"), "utf-8"), None):
        monkeypatch.setattr(sys, "stdin", nothing)
        status, out, err = run("generate", "-", "--model", model, *FAST)
        assert (status, out) == (2, "")
        assert re.match(r"pyengine: prompt: expected (one|UTF-8) on standard input", err)


@pytest.mark.parametrize(
    ("given", "ours"),
    [("DDIM", "ddim"), ("Euler a", "euler_ancestral"), ("DPM++ 2M Karras", "dpmpp_2m_karras"),
     ("EulerDiscreteScheduler", "euler"), ("UniPC", "unipc")],
)  # fmt: skip
def test_samplers_by_other_tools_names(run, model, tmp_path, given, ours):
    status, _, err = run("generate", "x", "-m", model, *FAST, "--scheduler", given, "-o", "x.png")
    assert status == 0, err
    assert metadata.read(tmp_path / "x.png").scheduler == ours
    status, _, err = run("generate", "--from", "x.png", "-m", model, "-o", "again.png")
    assert (status, err) == (0, "")


@pytest.mark.parametrize("name", ["fp16", "FP16", "half", "torch.float16", "f16", "float16"])
def test_dtypes_by_other_names(run, model, tmp_path, name):
    import torch

    assert placing.find_dtype(name) == torch.float16
    assert placing.find_dtype("bf16") == placing.find_dtype(torch.bfloat16) == torch.bfloat16
    assert placing.find_dtype("fp32") == placing.find_dtype("float") == torch.float32
    if name != "fp16":
        return
    status, _, err = run("generate", "x", "-m", model, *FAST, "--dtype", name, "-o", "x.png")
    assert status == 0, err
    assert metadata.read(tmp_path / "x.png").dtype == "float16"


@pytest.mark.parametrize("name", ["emoji_ar", "Emoji", "emojii", "EMOJI-AR", "emoji-arr", "emojis"])
def test_a_slip_in_the_name_of_a_model_that_ships_goes_nowhere(run, monkeypatch, name):
    module = sys.modules["pyengine.weights.resolve"]  # the package has a function of that name
    monkeypatch.setattr(module, "open_hub", None)  # calling it would be an unexpected error
    for command in (("generate", "x", "-m", name), ("info", name)):
        status, out, err = run(*command)
        assert (status, out, len(err.splitlines())) == (2, "", 1)
        assert re.search(r"did you mean emoji(-ar)?\?", err)


def test_a_folder_of_such_a_name_is_loaded(run, tmp_path):
    tiny.write_sd1(tmp_path / "emojii")
    assert run("info", "emojii")[0] == 0


@pytest.mark.parametrize("write", [tiny.write_picture_gpt, tiny.write_amused, tiny.write_janus])
def test_a_plan_of_what_has_no_unet_says_so(run, tmp_path, write):
    status, out, err = run("info", write(tmp_path / "m"), "--plan")
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert "--plan: " in err
    assert "expected a diffusion model, a GAN or an upscaler" in err


# --- what the model knows -------------------------------------------------------------------------

LABELS = ["red heart", "blue heart", "cat face", "dog face", "ice cream", "broken heart", "taxi"]


@pytest.mark.parametrize(
    "prompt",
    ["a red heart", "Red Hearts!", "the ICE-cream emoji", "a red heart, flat style", "taxis"],
)
def test_known_prompts(prompt):
    assert concepts.knows(prompt, LABELS)
    assert concepts.hint(prompt, LABELS, "emoji") is None


def test_the_longest_label_of_a_prompt_is_named():
    labels = ["heart", "red heart", "taxi"]
    assert concepts.named("a Red Heart, flat style", labels) == 1
    assert concepts.named("a blue heart", labels) == 0
    assert concepts.named("a dog", labels) is None


@pytest.mark.parametrize(
    ("prompt", "first"),
    [("a cat", "cat face"), ("a heart that is blue", "blue heart"), ("broken hart", "broken heart"),
     ("a taxy", "taxi"), ("icecream", "ice cream")],
)  # fmt: skip
def test_unknown_prompts_get_the_nearest_first(prompt, first):
    assert not concepts.knows(prompt, LABELS)
    assert concepts.nearest(prompt, LABELS)[0] == first
    said = concepts.hint(prompt, LABELS, "emoji")
    assert f"the nearest are {first}, " in said
    assert "7 things" in said
    assert "pyengine info emoji --concepts" in said


@pytest.mark.parametrize("prompt", ["", "漢字", "!!", "a", "x" * 1000])
def test_odd_prompts_get_a_hint_too(prompt):
    assert "the nearest are" in concepts.hint(prompt, LABELS, "emoji")
    assert concepts.hint(prompt, [], "tiny") is None


def test_the_hint_and_the_list(run, tmp_path):
    listed = run("info", "emoji", "--concepts")[1].splitlines()
    assert listed == (loading.shipped_folder() / "concepts.txt").read_text().splitlines()
    assert json.loads(run("info", "emoji-ar", "--concepts", "--json")[1])["concepts"] == listed
    status, out, err = run("generate", "a grand piano", "--steps", "2", "--seed", "1")
    assert status == 0
    assert err.startswith(
        "pyengine: warning: emoji knows 319 things and none of them in this prompt"
    )
    status, out, err = run("generate", "a grand piano", "--steps", "2", "--seed", "1", "--json")
    [warning] = json.loads(out)["report"]["warnings"]
    assert warning in err
    assert run("generate", "a red heart", "--steps", "2", "--seed", "1")[2] == ""
    stages = ("-m", "emoji", "-m", "emoji")  # a cascade's first says what it knows
    _, _, err = run("generate", "a grand piano", *stages, "--steps", "2", "--seed", "1")
    assert "knows 319 things and none of them in this prompt" in err


def test_a_model_that_lists_nothing(run, model):
    status, out, err = run("info", model, "--concepts")
    assert (status, out) == (2, "")
    assert err.startswith("pyengine: --concepts: ")


# --- checkpoints with more to say -----------------------------------------------------------------


def change(model, folder, part, **keys):
    """A copy of a checkpoint with these keys in a part's config."""
    shutil.copytree(model, folder)
    path = folder / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))
    return folder


def test_keys_that_may_stay_unread_are_named(run, model, tmp_path):
    folder = change(model, tmp_path / "odd", "unet", swirl=3, twist="left")
    call = ("generate", "a cat", "-m", folder, *FAST)
    for command in (call, ("info", folder), ("info", folder, "--plan")):
        status, _, err = run(*command, "--ignore-config-key", "swirl")
        assert (status, "twist" in err, "swirl" in err) == (2, True, False), err
        status, _, err = run(
            *command, "--ignore-config-key", "swirl", "--ignore-config-key", "twist"
        )
        assert (status, err) == (0, "")


def test_what_is_warned_of_while_loading_is_told(run, model, tmp_path):
    folder = change(model, tmp_path / "shifted", "vae", shift_factor=0.1)
    status, _, err = run("generate", "a cat", "-m", folder, *FAST)
    assert status == 0
    assert err.startswith("pyengine: warning: ")
    assert "shift_factor 0.1 is not applied" in err
