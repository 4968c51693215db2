"""docs/engine.md says what is so: its code runs, in order, and does what the text says."""

import re
from pathlib import Path

import numpy as np
import pytest

from pyengine.engine import Engine, Event, costs, engine, schedule

PAGE = Path(__file__).resolve().parents[2] / "docs" / "engine.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def names():
    """What the page's code has defined, from first to last."""
    found = {}
    for block in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), found)  # our own page
    return found


def test_pictures_of_the_call(names, pipes):
    for name, output, prompt, seed in [
        ("emoji", names["output"], "a red heart", 1),
        ("emoji-ar", names["drawn"], "a tree", 2),
    ]:
        expected = pipes[name](prompt, seed=seed)
        assert np.array_equal(np.asarray(output.images[0]), np.asarray(expected.images[0]))


def test_events(names):
    types = [kind for kind, _, _ in names["seen"]]
    assert types[0] == "queued"
    assert names["seen"][0][1] == 1
    assert types[-1] == "done"
    assert types.count("preview") == 2
    assert types.count("step") == 8
    assert names["rocket"].report.steps == 8


def test_the_deadline_is_refused(names):
    assert names["later"] > 0


def test_what_the_page_names_is_there():
    for name in re.findall(r"`engine\.(\w+)", TEXT):
        assert hasattr(Engine, name), name
    table = TEXT.split("| `event.type` | has |")[1].split("\n\n")[0]
    fields = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row)}
    types = {"queued", "started", "step", "preview", "done", "failed", "cancelled"}
    assert fields >= types
    assert fields - types - {"await"} == set(Event.__dataclass_fields__) - {"type", "step"}


def test_numbers_of_the_page():
    assert f"or {schedule.PATIENCE:g} s after" in TEXT
    assert f"{schedule.PRIORITY:g} s earlier" in TEXT
    assert f"`priority` (-{engine.MAX_PRIORITY} to {engine.MAX_PRIORITY})" in TEXT
    assert f"seconds ({engine.LONGEST_STEP:g}), {costs.Costs(1).most} at most" in TEXT
