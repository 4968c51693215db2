"""Ray's examples: the dataset is drawn, the files are read by Ray."""

import csv
import importlib
import runpy
import sys
from pathlib import Path

import pytest

import pyengine

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@pytest.mark.slow
def test_a_dataset_is_drawn_and_gone_on_with(cluster, tmp_path, monkeypatch):
    prompts, folder = tmp_path / "prompts.csv", tmp_path / "pictures"
    monkeypatch.setattr(cluster.data.DataContext.get_current(), "enable_progress_bars", False)

    def run(rows):
        with prompts.open("w", newline="") as file:
            csv.writer(file).writerows([["id", "prompt"], *rows])
        monkeypatch.setattr(
            sys, "argv", ["ray_dataset.py", str(prompts), str(folder), "--steps", "2"]
        )
        runpy.run_path(str(EXAMPLES / "ray_dataset.py"), run_name="__main__")
        return cluster.data.read_parquet(str(folder)).take_all()

    assert [row["id"] for row in run([(1, "a cat")])] == [1]
    found = {row["id"]: row for row in run([(1, "a cat"), (2, "a tree")])}
    assert set(found) == {1, 2}
    assert found[2]["seed"] == pyengine.ray.seed_of(2)
    assert found[2]["image"].shape == (64, 64, 3)


def test_the_serve_config(monkeypatch):
    yaml = pytest.importorskip("yaml")
    schema = pytest.importorskip("ray.serve.schema")
    config = schema.ServeDeploySchema(**yaml.safe_load((EXAMPLES / "ray_serve.yaml").read_text()))
    (application,) = config.applications
    monkeypatch.syspath_prepend(str(ROOT))
    module, _, name = application.import_path.partition(":")
    app = getattr(importlib.import_module(module), name)
    assert type(app).__name__ == "Application"


def test_the_cluster_file():
    yaml = pytest.importorskip("yaml")
    util = pytest.importorskip("ray.autoscaler._private.util")
    config = yaml.safe_load((EXAMPLES / "ray_cluster.yaml").read_text())
    util.validate_config(util.prepare_config(config))
