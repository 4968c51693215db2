"""What the tests of `pyengine bench` share: quick runs, and checks of their results."""

import importlib.util

import numpy as np
import pytest

from pyengine.bench.results import OURS

QUICK = ("--quick", "--threads", "1")


def needs(package):
    """Skips where a peer is not installed, without loading its libraries into this process."""
    there = importlib.util.find_spec(package) is not None
    return pytest.mark.skipif(not there, reason=f"{package} is not installed (extra `bench`)")


def check_json(facts, suite, peers):
    """The schema, and that what is derived follows from what was measured."""
    assert facts["machine"]["suite"] == suite
    for key in ("cpu", "threads", "instruction set", "torch", "pyengine", "rounds", "peak_bytes"):
        assert facts["machine"][key], key
    assert facts["rows"]
    for row in facts["rows"]:
        assert row["suite"] == suite
        assert {OURS} <= set(row["times"]) <= {OURS, *peers}
        assert row["bytes"] > 0
        assert row["kernels"]
        bound = max(
            row["flops"] / row["peak_flops_per_second"],
            row["bytes"] / row["copy_bytes_per_second"],
        )
        assert row["bound_seconds"] == pytest.approx(bound)
        for times in row["times"].values():
            assert times["median"] == pytest.approx(np.median(times["samples"]))
            assert len(times["samples"]) == facts["machine"]["rounds"]
        ours = row["times"][OURS]["median"]
        for name, ratio in row["faster_than"].items():
            assert ratio == pytest.approx(row["times"][name]["median"] / ours)


def check_table(text, facts):
    """A line for each row, with our median and the ratio to each peer."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    heads = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert len(lines) == len(facts["rows"]) + 1
    for line, row in zip(lines[1:], facts["rows"], strict=True):
        cells = dict(zip(heads, [c.strip() for c in line.strip("| ").split(" | ")], strict=True))
        assert (cells["work"], cells["shape"]) == (row["name"], row["shape"])
        ours = float(cells["pyengine, ms"].split(" ")[0])
        assert ours == pytest.approx(row["times"][OURS]["median"] * 1e3, rel=0.01)
        for name, ratio in row["faster_than"].items():
            assert cells[f"against {name}"] == f"{ratio:.2f}x"
