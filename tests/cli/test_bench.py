"""`pyengine bench` at tiny shapes: what it prints, writes and refuses. Times decide nothing."""

import json
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bench_checks import QUICK, check_json, check_table, needs
from PIL import Image

from pyengine.bench import run as bench_run
from pyengine.bench import worker
from pyengine.bench.contest import relative_l2
from pyengine.bench.shapes import TINY
from pyengine.ops import OPS

pytestmark = pytest.mark.usefixtures("forked")
ROOT = Path(__file__).resolve().parents[2]


# --- ops ------------------------------------------------------------------------------------------


def test_ops_show_every_op_hot_and_cold(run, tmp_path):
    arguments = ("--peers", "--without", "torch.compile,ncnn", "--save", tmp_path / "new/o.json")
    status, out, err = run("bench", "ops", *QUICK, *arguments, "--plot", tmp_path / "o.png")
    assert status == 0, err
    facts = json.loads((tmp_path / "new/o.json").read_text())
    check_json(facts, "ops", {"torch"})
    check_table(out, facts)
    seen = [(row["name"], row["inputs"]) for row in facts["rows"]]
    assert set(TINY) == set(OPS)
    shapes = [shape.op for of_op in TINY.values() for shape in of_op]
    assert sorted(seen) == sorted((op, heat) for op in shapes for heat in ("hot", "cold"))
    assert all("torch" in row["times"] for row in facts["rows"])
    with Image.open(tmp_path / "o.png") as picture:
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("RGB"))
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20  # something is drawn


def test_ops_alone_measure_no_peer(run, tmp_path):
    status, out, err = run("bench", "ops", *QUICK, "--op", "geglu", "--save", tmp_path / "o.json")
    assert status == 0, err
    facts = json.loads((tmp_path / "o.json").read_text())
    check_json(facts, "ops", ())
    assert [row["name"] for row in facts["rows"]] == ["geglu", "geglu"]
    assert "against" not in out


def test_a_plot_without_matplotlib_is_refused_at_once(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("pyengine.bench.operations.measure", None)
    status, out, err = run("bench", "ops", *QUICK, "--plot", tmp_path / "o.png")
    assert (status, out) == (2, "")
    assert "pip install 'pyengine[bench]'" in err


@pytest.mark.slow
def test_ops_measure_torch_compile(run, tmp_path):
    status, out, err = run(
        "bench",
        "ops",
        *QUICK,
        "--op",
        "geglu",
        "--peers",
        "--without",
        "ncnn",
        "--save",
        tmp_path / "o.json",
    )
    assert status == 0, err
    facts = json.loads((tmp_path / "o.json").read_text())
    check_json(facts, "ops", {"torch", "torch.compile"})
    assert facts["rows"][0]["facts"]["torch.compile"]["compile_seconds"] > 0
    assert "compiled in" in out


@needs("ncnn")
def test_ncnn_convolves_as_torch_does(one_conv):
    from pyengine.bench.peers import ncnn_conv

    arrays = {name: one_conv[name].numpy() for name in ("x", "weight", "bias")}
    with worker.Worker("ncnn", ncnn_conv.chain, 1, length=3, **arrays) as found:
        y = torch.nn.functional.conv2d(
            one_conv["x"].permute(0, 3, 1, 2),
            one_conv["weight"].permute(0, 3, 1, 2),
            one_conv["bias"],
            padding=1,
        )
        assert relative_l2(found.result, y.permute(0, 2, 3, 1).numpy()) < 1e-4
        assert found.sample(2) > 0


@pytest.fixture
def one_conv():
    from pyengine.bench.arguments import conv2d

    return conv2d(6, 16, 16).build(torch.float32, "cpu")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ops", "--op", "convolve"), "group_norm_silu"),
        (("ops", "--op", "linear", "--shape", "no such"), "no such"),
        (("ops", "--dtype", "float8"), "float8"),
        (("ops", "--device", "tpu"), "tpu"),
        (("ops", "--peers", "--without", "onnx"), "torch.compile"),
        (("unet", "--latents", "32,x"), "32,x"),
        (("unet", "--latents", "12"), "12"),
        (("unet", "--model", "sd3"), "sd15, sdxl, ddpm, unclip, if"),
        (("unet", "--model", "ddpm", "--weights", "fp8"), "ddpm has no tier of 8 bits"),
        (("unet", "--weights", "int4"), "weights: expected one of int8, fp8, given"),
        (("unet", "--peers", "--without", "ncnn"), "openvino"),
        (("ops", "--save", "/dev/null/x.json"), "/dev/null/x.json"),
        (("vae", "--rounds", "1"), "rounds"),
        (("pipeline", "--size", "100"), "100"),
        (("agreement", "--device", "tpu"), "tpu"),
        (("everything",), "everything"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_refusals(run, arguments, said):
    status, out, err = run("bench", *arguments)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert said in err


# --- docs/gpu.md --------------------------------------------------------------------------------


def test_what_a_gpu_has_to_show_are_commands(run, monkeypatch):
    """Those of the table are understood, and are what `make bench-gpu` runs."""
    page, makefile = ((ROOT / name).read_text() for name in ("docs/gpu.md", "Makefile"))
    table = page[page.index("## What to run on a GPU") :]
    commands = re.findall(r"^\|[^|]*\| `([^`]*)` \|", table, re.M)
    made = re.findall(r"^\t(run|gpu|net) (.*); \\$", makefile, re.M)
    made = [line + " --device cuda --peers" * (how != "run") for how, line in made]
    assert len(commands) == 8
    assert {frozenset(c.split()) for c in commands} == {frozenset(c.split()) for c in made}
    started = []
    for name in ("run_ops", "run_model", "run_token", "run_agreement"):
        monkeypatch.setattr(bench_run, name, lambda *a, **k: started.append((a, k)) or 0)
    for command in commands:
        status, _, err = run("bench", *shlex.split(command))
        assert status == 0, err
    assert len(started) == len(commands)
