"""docs/jobs.md says what is so: its code runs, in order, and does what the text says."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyengine.jobs.job import Job

PAGE = Path(__file__).resolve().parents[2] / "docs" / "jobs.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def names():
    """What the page's code has defined, from first to last."""
    found = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), found)  # our own page
    return found


def same(one, other):
    return np.array_equal(np.asarray(one), np.asarray(other))


def test_a_job_is_the_picture_of_the_call(names):
    assert isinstance(names["heart"], Image.Image)
    assert same(names["heart"], names["pipe"]("a red heart", seed=1).images[0])


def test_jobs_that_come_and_go(names):
    pipe, pictures = names["pipe"], names["pictures"]
    calls = {
        2: {"prompt": "a rocket", "num_inference_steps": 9},
        3: {
            "prompt": "two cats",
            "num_inference_steps": 4,
            "scheduler": "heun",
            "guidance_scale": 1.0,
        },
        4: {"prompt": "a tree", "num_inference_steps": 6, "scheduler": "euler_ancestral"},
    }
    assert pictures.keys() == calls.keys()
    for seed, call in calls.items():
        assert same(pictures[seed], pipe(**call, seed=seed).images[0])


def test_ending_a_job(names):
    one, two = names["one"], names["two"]
    assert names["taken"] == (1, 2)
    assert one.cancelled
    assert two.cancelled
    assert names["sketch"].size == names["heart"].size


def test_watching_a_call(names):
    assert same(names["early"], names["late"])
    assert names["steps"].output.report.interrupted


def test_what_the_page_names_is_there(names):
    pipe, job = names["pipe"], names["one"]
    for name in re.findall(r"`pipe\.(\w+)", TEXT):
        assert hasattr(pipe, name), name
    for name in re.findall(r"`job\.(\w+)", TEXT):
        assert hasattr(job, name), name
    for name in re.findall(r"`step\.(\w+)", TEXT):
        assert hasattr(names["step"], name), name
    table = set(re.findall(r"`job\.(\w+)", TEXT.split("| of a job | |")[1].split("\n\n")[0]))
    own = {*vars(Job(names["run"])), *(n for n in vars(Job) if not n.startswith("_"))}
    assert table == {name for name in own if not name.startswith("_")} - {
        "owner",
        "loaded",
        "raise_error",
    }
