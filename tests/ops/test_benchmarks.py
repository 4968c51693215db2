"""The benchmarks run and are complete; how fast anything is decides no test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.measure import Times
from bench.ops import table
from bench.ops.contest import check
from bench.shapes import SHAPES, TINY
from pyengine.ops import OPS

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("op", sorted(OPS))
def test_every_op_has_shapes_and_a_peer(op):
    assert SHAPES[op]
    assert TINY[op]
    assert callable(table.eager_of(op))


def test_every_benchmark_runs_and_agrees_with_torch():
    command = [sys.executable, "-m", "pytest", "bench/ops", "--tiny", "--no-compile"]
    command += ["--benchmark-disable", "-p", "no:cacheprovider"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{2 * len(OPS)} passed" in result.stdout


def run_table(capsys, tmp_path, *arguments):
    path = tmp_path / "table.json"
    arguments = ("--threads", str(torch.get_num_threads()), *arguments)
    assert table.main(["--tiny", "--rounds", "2", "--json", str(path), *arguments]) == 0
    return capsys.readouterr().out, json.loads(path.read_text())


def test_the_table_shows_what_the_json_holds(capsys, tmp_path):
    text, result = run_table(capsys, tmp_path, "--no-compile", "--ops", "geglu", "linear")
    rows = [line for line in text.splitlines() if line.startswith(("| geglu", "| linear"))]
    assert len(rows) == len(result["rows"]) == 4
    for line, row in zip(rows, result["rows"], strict=True):
        assert set(row["times"]) == {"torch", "pyengine"}
        assert all(times["median"] > 0 for times in row["times"].values())
        assert f"| {row['op']} | {row['shape']} | {'cold' if row['cold'] else 'hot'} |" in line
        ratio = row["times"]["torch"]["median"] / row["times"]["pyengine"]["median"]
        assert f"| {ratio:.2f}x |" in line
    assert [row["limit"] for row in result["rows"]] == ["memory"] * 2 + ["arithmetic"] * 2


@pytest.mark.slow
def test_the_table_measures_torch_compile(capsys, tmp_path):
    _, result = run_table(capsys, tmp_path, "--ops", "geglu")
    for row in result["rows"]:
        assert "torch.compile" in row["times"]
        assert row["compile_seconds"] > 0


def test_a_wrong_result_stops_a_benchmark():
    x = torch.ones(8)
    check("ours", x * (1 + 1e-6), x, torch.float32)
    with pytest.raises(AssertionError, match=r"ours is 1\.0e-03 away"):
        check("ours", x * 1.001, x, torch.float32)


def test_spread_is_half_the_distance_between_quartiles():
    times = Times((1.0, 2.0, 3.0, 4.0, 5.0))
    assert times.median == 3.0
    assert times.spread == pytest.approx(1 / 3)
