"""`pyengine bench token` at tiny shapes. Times decide nothing."""

import json

import numpy as np
import pytest
import tiny
import torch
from bench_checks import QUICK
from test_cuda_calls import Recorder

from pyengine.bench import checkpoints, llamagen, timing, token
from pyengine.bench.contest import Contestants
from pyengine.bench.results import OURS
from pyengine.models import PictureGPT

pytestmark = pytest.mark.usefixtures("forked")


def measured(run, path, *arguments):
    status, out, err = run("bench", "token", *QUICK, *arguments, "--save", path)
    assert status == 0, err
    facts = json.loads(path.read_text())
    assert facts["machine"]["suite"] == "token"
    for row in facts["rows"]:
        assert row["suite"] == "token"
        assert row["bound_seconds"] == pytest.approx(
            max(
                row["flops"] / row["peak_flops_per_second"],
                row["bytes"] / row["read_bytes_per_second"],
            )
        )
        assert row["times"][OURS]["median"] > 0
    assert "read " in out
    return facts["rows"], out


def test_a_token_beside_transformers(run, kept, tmp_path):
    rows, out = measured(
        run,
        tmp_path / "t.json",
        "--only",
        "token",
        "--peers",
        "--keep",
        kept,
        "--without",
        "torch.compile",
    )
    assert [row["shape"] for row in rows] == [
        f"0M weights in {storage}, 2 rows behind 4" for storage in ("float32", "float16", "int8")
    ]
    whole, half, least = rows
    assert whole["bytes"] > half["bytes"] > whole["bytes"] / 2  # keys and values are float32
    assert half["bytes"] > least["bytes"] > half["bytes"] / 2
    assert least["facts"][OURS]["relative_l2"] >= 1e-4
    for row in rows[:2]:
        assert set(row["times"]) == {"torch", OURS}
        assert row["facts"][OURS]["relative_l2"] <= 1e-5
        assert row["kernels"]["decode_attention"].startswith("cpu")
    assert "against torch" in out


@pytest.mark.slow
def test_torch_compile_agrees(run, kept, tmp_path):
    rows, _ = measured(run, tmp_path / "t.json", "--only", "token", "--peers", "--keep", kept)
    for row in rows:
        assert set(row["times"]) == {"torch", "torch.compile", OURS}
        assert row["facts"]["torch.compile"]["relative_l2"] <= 1e-5


def test_a_token_in_another_dtype_and_size(run, kept, tmp_path):
    rows, _ = measured(
        run,
        tmp_path / "t.json",
        "--only",
        "token",
        "--peers",
        "--keep",
        kept,
        "--without",
        "torch.compile",
        "--dtype",
        "bfloat16",
        "--model-size",
        "xl",
    )
    assert [row["shape"] for row in rows] == [
        f"0M weights in {storage}, 2 rows behind 4" for storage in ("bfloat16", "int8")
    ]
    shape = llamagen.Shape(quick=True, size="xl", dtype=torch.bfloat16)
    assert rows[0]["bytes"] == shape.work(2)[1]
    for row in rows:
        assert set(row["times"]) == {"torch", OURS}
    assert rows[0]["facts"][OURS]["relative_l2"] <= llamagen.AGREEMENT[torch.bfloat16]


def test_a_recorded_token_is_the_same(kept):
    """As on a GPU, every call behind the same tokens."""
    shape, recorder = llamagen.Shape(quick=True), Recorder()
    given = {
        "threads": 1,
        "folder": checkpoints.write_gpt(kept / "recorded", True),
        "ids": shape.ids(),
        "storage": "float32",
        "device": "cpu",
        "dtype": torch.float32,
    }
    plain, recorded = token.ours({}, **given), token.ours({}, **given, record=recorder)
    expected = plain().clone()
    for _ in range(3):
        assert torch.equal(recorded(), expected)
        assert torch.equal(plain(), expected)
    assert (recorder.recorded, recorder.replayed) == (1, 3)


def test_storages_of_a_gpu():
    assert list(llamagen.storages("cuda", torch.bfloat16)) == ["bfloat16", "int8", "fp8"]
    assert list(llamagen.storages("cuda:1", torch.float32)) == ["float32", "int8", "fp8"]


def test_a_picture_beside_transformers(run, kept, tmp_path):
    [row], _ = measured(run, tmp_path / "p.json", "--only", "picture", "--peers", "--keep", kept)
    assert row["shape"] == "9 tokens in float16, and their decoding"
    assert set(row["times"]) == {"torch", OURS}
    shape = llamagen.Shape(quick=True)
    assert row["bytes"] > 9 * 2 * shape.matrices()


def test_passes_of_a_given_model(run, tmp_path):
    folder = tiny.write_picture_gpt(tmp_path / "gpt")
    rows, out = measured(
        run,
        tmp_path / "j.json",
        "--only",
        "jacobi",
        "-m",
        folder,
        "--windows",
        "1,6",
        "--pictures",
        "2",
    )
    assert [(row["name"], row["shape"]) for row in rows] == [
        (name, f"2 pictures of 25 tokens, window {window}")
        for name in ("jacobi", "jacobi-gumbel")
        for window in (1, 6)
    ]
    one, six, *_ = (row["facts"][OURS]["passes_per_token"] for row in rows)
    assert one == rows[0]["facts"]["sequential"]["passes_per_token"] == 1
    assert 1 / 6 <= six < 1
    assert f"passes per token {six:.3f}" in out


def test_logits_that_differ_stop_the_benchmark():
    class Off:
        def __init__(self, result):
            self.name, self.result = "off", result

    right = np.linspace(1, 2, 9, dtype=np.float32)
    for wrong in (right * 1.001, right * np.nan, right[:3]):
        found = Contestants({"torch": Off(right)})
        with pytest.raises(RuntimeError, match=r"token: float32 is .* away from off"):
            token.check({"float32": Off(wrong)}, found, llamagen.storages("cpu", torch.float32))


@pytest.mark.parametrize(("size", "millions"), [("b", 111), ("xl", 775)])
def test_llamagens_sizes(size, millions):
    """Its paper's numbers of parameters, which count embeddings of 1,001 classes too."""
    shape = llamagen.Shape(quick=False, size=size)
    model = PictureGPT.from_config(dict(shape.config))
    count = sum(p.numel() for p in model.parameters())
    width = shape.config["hidden_size"]
    assert round((count + (1001 - 2 * 4) * width) / 1e6) == millions
    assert (shape.side, shape.codes, shape.behind) == (24, 16384, 288)
    table = model.model.embed_tokens.weight.numel()
    norms = sum(p.numel() for p in model.parameters() if p.dim() == 1)
    assert shape.matrices() == count - table - norms


def test_reading_is_a_sum():
    limits = timing.LimitsOfThisMinute(torch.float32, "cpu", quick=True, moved="read")()
    assert limits.moved == "read"
    assert limits.bandwidth > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--only", "jacobi"), "model: expected one whose passes"),
        (("--only", "tokens"), "only: expected one of token, picture, jacobi"),
        (("--peers", "--without", "diffusers"), "torch.compile"),
        (("--model-size", "xxl"), "model-size: expected one of b, xl"),
        (("-m", "x", "--windows", "8,x"), "windows: expected sizes"),
        (("-m", "x", "--windows", "0"), "windows: expected sizes"),
    ],
)
def test_refusals(run, arguments, said):
    status, out, err = run("bench", "token", *QUICK, *arguments)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert said in err
