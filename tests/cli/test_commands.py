"""The other commands, help, and what importing costs."""

import json
import re
import subprocess
import sys

import pytest
import tiny
import torch
from test_generate import environment

import pyengine
from pyengine.cli import main
from pyengine.pipelines.loading import NAMED


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=False
    )


HEAVY = ("torch", "diffusers", "transformers", "tokenizers", "PIL", "numpy")


@pytest.mark.parametrize(
    "code",
    [
        "import pyengine",
        "from pyengine.cli import main; assert main(['--version']) == 0",
        "from pyengine.cli import main; assert main(['--help']) == 0",
        "from pyengine.cli import main; assert main(['generate', '--help']) == 0",
        "from pyengine.cli import main; assert main(['train', 'emoji', '--help']) == 0",
        "from pyengine.cli import main; assert main(['bench', 'unet', '--help']) == 0",
    ],
)
def test_what_is_not_imported(code):
    done = python(f"{code}\nimport sys\nassert not set({HEAVY}) & set(sys.modules)")
    assert done.returncode == 0, done.stderr


def test_the_version_needs_no_typer():
    done = python(
        "from pyengine.cli import main; main(['--version'])\n"
        "import sys; assert not {'typer', 'rich'} & set(sys.modules)"
    )
    assert (done.returncode, done.stdout.strip()) == (0, f"pyengine {pyengine.__version__}")


@pytest.mark.parametrize("tokens", [False, True])
def test_a_picture_imports_neither_diffusers_nor_torchs_compiler(tokens, model, tmp_path):
    chosen = ["-m", str(tiny.write_picture_gpt(tmp_path / "gpt"))]
    if not tokens:
        chosen = ["-m", model, "--steps", "1"]
    chosen += ["-o", str(tmp_path / "x.png")]
    code = (
        "from pyengine.cli import main, sys\n"
        f"assert main(['generate', 'x', *{chosen}]) == 0\n"
        "wrong = {'diffusers', 'transformers', 'accelerate', 'torch._dynamo', 'torch._inductor'}\n"
        "assert not wrong & set(sys.modules), wrong & set(sys.modules)"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [["-m", "pyengine"], ["-m", "pyengine.cli"]])
def test_as_a_module(command):
    done = subprocess.run(
        [sys.executable, *command, "--version"],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"pyengine {pyengine.__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["generate"],
        ["info"],
        ["doctor"],
        ["train"],
        ["train", "emoji"],
        ["train", "data"],
        ["eval"],
        ["compare"],
        ["bench"],
        ["bench", "ops"],
        ["bench", "unet"],
        ["bench", "vae"],
        ["bench", "pipeline"],
    ],
    ids=" ".join,
)
def test_help(run, arguments):
    status, out, err = run(*arguments, "--help")
    assert (status, err) == (0, "")
    assert "Usage: pyengine" in out
    if arguments in (["generate"], ["info"], ["train", "emoji"]):
        assert f"\n  pyengine {' '.join(arguments)} " in out  # an example


def test_no_command_shows_the_help(run):
    status, out, err = run()
    assert (status, out) == (2, "")
    assert "Usage: pyengine" in err


@pytest.mark.parametrize(
    "arguments", [["paint"], ["train", "gpt"], ["info", "a", "b"]], ids=" ".join
)
def test_unknown_commands(run, arguments):
    status, out, err = run(*arguments)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert "--help" in err


def test_shell_completion(run, monkeypatch):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    done = subprocess.run(
        [sys.executable, "-m", "pyengine"],
        capture_output=True,
        text=True,
        check=False,
        env={
            **environment(),
            "_PYENGINE_COMPLETE": "complete_bash",
            "COMP_WORDS": "pyengine ge",
            "COMP_CWORD": "1",
        },
    )
    assert done.stdout.strip() == "generate", done.stderr


# --- info -----------------------------------------------------------------------------------------


def test_info(run, model):
    status, out, err = run("info", model)
    assert (status, err) == (0, "")
    assert "StableDiffusionPipeline" in out
    for part in ("unet", "vae", "text_encoder", "scheduler: ddim", "hash: "):
        assert part in out


def test_info_counts_parameters(run, tmp_path):
    import diffusers

    folder = tiny.write_sdxl(tmp_path / "xl", variant="fp16", dtype=torch.float16)
    status, out, err = run("info", folder, "--json", "--variant", "fp16")
    assert status == 0, err
    facts = json.loads(out)
    pipe = diffusers.DiffusionPipeline.from_pretrained(folder, variant="fp16")
    for name, part in facts["parts"].items():
        module = getattr(pipe, name)
        count = sum(p.numel() for p in module.parameters())
        assert part["parameters"] == count
        assert part["bytes"] == 2 * count
        assert set(part["tensors"]) == {"float16"}
    assert facts["parameters"] == sum(p["parameters"] for p in facts["parts"].values())
    assert facts["scheduler"]["sampler"] == "euler"
    assert re.fullmatch("[0-9a-f]{64}", facts["hash"])


def test_info_reads_no_weights_but_the_hash_changes_with_them(run, tmp_path):
    hashes = set()
    for seed in (0, 1, 1):
        folder = tiny.write_sd1(tmp_path / "m", seed=seed)
        hashes.add(json.loads(run("info", folder, "--json")[1])["hash"])
    assert len(hashes) == 2


def test_info_of_a_damaged_checkpoint(run, tmp_path):
    folder = tiny.write_sd1(tmp_path / "m")
    (folder / "unet" / "config.json").write_text("{}}")
    status, out, err = run("info", folder)
    assert (status, out, len(err.splitlines())) == (2, "", 1)


# --- doctor ---------------------------------------------------------------------------------------


def test_doctor(run):
    status, out, _ = run("doctor", "--json")
    facts = json.loads(out)
    assert status == (1 if facts["problems"] else 0)
    assert facts["versions"]["pyengine"] == pyengine.__version__
    assert facts["versions"]["torch"] != "not installed"
    assert facts["cpu_kernels"]["isa"] in facts["cpu_kernels"]["isas"]
    assert all(facts["cpu_kernels"]["isas"].values())
    assert len(facts["openmp"]) == 1
    assert facts["threads"]["pool"] >= 0
    status, text, _ = run("doctor")
    for word in ("python", "cpu", "versions", "kernels", "threads", "openmp", "cuda", "models"):
        assert re.search(rf"^{word} ", text, re.M)


def test_doctor_looks_at_the_models_that_ship(run, tmp_path):
    (tmp_path / "emoji").mkdir()  # run() is there: a folder that somebody exported into
    facts = json.loads(run("doctor", "--json")[1])
    assert [place.split(",")[0].rsplit("/", 1)[1] for place in facts["models"]] == list(NAMED)
    assert not any(str(tmp_path) in place for place in facts["models"])


def test_doctor_says_why_an_instruction_set_is_in_use():
    code = "from pyengine.doctor import examine; import json; print(json.dumps(examine()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**environment(), "PYENGINE_ISA": "portable"},
    )
    kernels = json.loads(done.stdout)["cpu_kernels"]
    assert (kernels["isa"], kernels["why"]) == ("portable", "PYENGINE_ISA=portable")


def test_doctor_reports_missing_kernels(run, monkeypatch):
    from pyengine.errors import UnavailableError
    from pyengine.ops import _core

    def missing():
        raise UnavailableError("the compiled CPU kernels cannot be loaded (gone)")

    monkeypatch.setattr(_core, "core", missing)
    status, out, _ = run("doctor")
    assert status == 1
    assert "problem   the compiled CPU kernels cannot be loaded" in out


# --- training -------------------------------------------------------------------------------------


def test_training_commands_reach_their_functions(run, monkeypatch, tmp_path):
    from pyengine.training import data, emoji, export

    calls = {}

    def fake(name, answer):
        def function(*args, **options):
            calls[name] = (args, options)
            return answer

        return function

    monkeypatch.setattr(emoji, "train", fake("train", tmp_path / "run"))
    monkeypatch.setattr(export, "export", fake("export", tmp_path / "model"))
    monkeypatch.setattr(data, "build", fake("build", tmp_path / "data"))
    status, _, err = run(
        "train",
        "emoji",
        "--data",
        "d",
        "--out",
        "r",
        "--steps",
        "5",
        "--minutes",
        "2.5",
        "--export",
        "m",
    )
    assert (status, err) == (0, "")
    assert calls["train"][1]["steps"] == 5
    assert calls["train"][1]["minutes"] == 2.5
    assert str(calls["export"][1]["to"]) == "m"
    status, _, err = run("train", "data", "--out", "d", "--packages", "a", "--packages", "b")
    assert (status, err) == (0, "")
    assert [str(p) for p in calls["build"][1]["packages"]] == ["a", "b"]


def test_the_options_are_those_of_the_functions():
    """A renamed argument would only fail when someone trains."""
    import inspect

    from pyengine.cli import training as app
    from pyengine.training import data, emoji, evaluate, export

    own = {"export"}
    names = set(inspect.signature(app.train_emoji).parameters) - own
    assert names <= set(inspect.signature(emoji.train).parameters)
    assert set(inspect.signature(app.train_data).parameters) - {"out"} <= set(
        inspect.signature(data.build).parameters
    )
    assert {"run", "to", "data"} <= set(inspect.signature(export.export).parameters)
    assert {"concepts", "data", "style", "count", "seed", "autoencode", "save_images"} <= set(
        inspect.signature(evaluate.evaluate).parameters
    )


def test_a_refusal_of_the_training_code(run, tmp_path):
    status, _, err = run("train", "emoji", "--data", tmp_path / "nowhere", "--out", tmp_path / "r")
    assert (status, len(err.splitlines())) == (2, 1)


def test_without_the_extra_training_says_what_to_install(run, monkeypatch):
    from pyengine.cli import train

    def missing(name):
        raise ModuleNotFoundError("No module named 'diffusers'", name="diffusers")

    monkeypatch.setattr(train.importlib, "import_module", missing)
    status, _, err = run("train", "data")
    assert status == 2
    assert "pyengine[train]" in err


def test_a_reader_that_has_gone_is_no_error(monkeypatch):
    import pyengine.cli as cli

    def run(arguments):
        raise BrokenPipeError

    monkeypatch.setattr(cli, "run", run)
    monkeypatch.setattr(cli.os, "dup2", lambda *a: None)
    assert main(["info"]) == 0
