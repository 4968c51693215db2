"""`pyengine bench tiers`: what less work takes, and what it costs in quality."""

import json

import numpy as np
import pytest

from pyengine.bench import tiers
from pyengine.bench.tiers import Way


@pytest.mark.filterwarnings("ignore:FrechetDistance")
def test_a_quick_run(run, tmp_path):
    status, out, err = run(
        "bench",
        "tiers",
        "--quick",
        "--count",
        "4",
        "--threads",
        "1",
        "--json",
        "--save",
        tmp_path / "tiers.json",
    )
    assert status == 0, err
    found = json.loads(out)
    assert found == json.loads((tmp_path / "tiers.json").read_text(encoding="utf-8"))
    assert found["diffusers"] is None
    first, *rest = found["ways"]
    assert first["call"] == {}
    assert (first["evaluations"], first["whole"], first["psnr"]) == (20, 20, None)
    assert first["distance"] < 0.01
    for way in rest:
        assert way["evaluations"] >= way["whole"] > 0
        assert way["seconds"] > 0
        assert 10 < way["psnr"] < 60
        assert way["distance"] > 0.01
    assert [(way["evaluations"], way["whole"]) for way in rest] == [
        (4, 4), (8, 4), (10, 5), (20, 20),
    ]  # fmt: skip


def test_every_way_that_a_model_is_drawn():
    pipe = tiers.load("emoji")
    chosen = tiers.ways(pipe, quick=False)
    assert [way.name for way in chosen][:2] == ["ddim, 20 steps", "ddim, 10 steps"]
    assert {"effort": "fast"} in [way.call for way in chosen]
    assert len({way.name for way in chosen}) == len(chosen) == 11


def test_steps_that_take_as_long():
    chosen = [
        Way("own", {}, evaluations=20, seconds=2.1),
        Way("fewer", {"num_inference_steps": 5}, evaluations=5, seconds=0.6),
        Way("other", {"cache_interval": 2}, evaluations=20, seconds=1.1),
    ]
    tiers.as_long_as(chosen)
    assert [way.steps for way in chosen] == [pytest.approx(n) for n in (20, 5, 10)]


def test_a_table():
    chosen = [Way("own", {}, 20, 20, 2.0, 20.0, 0.0), Way("x", {}, 5, 5, 0.5, 5.0, 1.25, 30.0)]
    assert tiers.plain(chosen, 8.0, {})["ways"][1]["psnr"] == 30.0
    rows = tiers.table(chosen, 8.0)
    cells = [list(column.cells) for column in rows.columns]
    assert cells[0] == ["diffusers, eager", "own", "x"]
    assert cells[3] == ["1.00x", "4.00x", "16.00x"]
    assert cells[5] == ["-", "0", "1.25"]


def test_psnr_of_pictures():
    a = np.zeros((3, 8, 8, 3), np.uint8)
    assert tiers._psnr(a, a) is None
    assert tiers._psnr(a, a + 1) == pytest.approx(48.1)


def test_models_of_other_kinds(run):
    status, _, err = run("bench", "tiers", "-m", "emoji-gan", "--quick")
    assert status != 0
    assert "model: expected one of Stable Diffusion's kind" in err
