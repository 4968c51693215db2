"""docs/from-diffusers.md says what is so."""

import inspect
import re
from pathlib import Path

import pytest

import pyengine
from pyengine.errors import RequestError, UnavailableError
from pyengine.pipelines.diffusers_names import keywords
from pyengine.pipelines.keywords import ELSEWHERE

PAGE = Path(__file__).resolve().parents[2] / "docs" / "from-diffusers.md"
STATES = ("same", "accepted", "other", "not here")
#: Methods that need arguments to do what the page says.
ARGUED = {"to", "set_progress_bar_config"}


def rows():
    """(section, what diffusers has, state) of every row."""
    section = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        section = line[3:] if line.startswith("## ") else section
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] not in ("diffusers", "---"):
            yield section, cells[0], cells[1]


ROWS = list(rows())


def test_every_row_has_a_state():
    assert len(ROWS) > 25
    assert {state for _, _, state in ROWS} <= set(STATES)


@pytest.mark.parametrize(("section", "what", "state"), ROWS)
def test_a_row_is_true(pair, section, what, state):
    """Names, attributes and methods that it names are there and act as it says."""
    pipe = pyengine.StableDiffusionXLPipeline.from_pipe(pair("sdxl").own)
    for name in re.findall(r"`([A-Z]\w+(?:Pipeline|For\w+))`", what):
        assert hasattr(pyengine, name)
    for name, call in re.findall(r"`pipe\.(\w+)(\(\))?", what):
        assert hasattr(pipe, name), name
        if call and state == "accepted":
            assert getattr(pipe, name)() is None
        elif call and state == "not here":
            with pytest.raises(UnavailableError, match=name):
                getattr(pipe, name)()
    for name in re.findall(r"`(\w+)=(?:\w+)?`", what) if section == "Loading" else ():
        assert name in keywords.known(), name
        if state == "not here":
            with pytest.raises(RequestError, match=f"^{name}: "):
                keywords.read_keywords({name: "x"})
    if section == "The call":
        known = inspect.signature(pyengine.StableDiffusionPipeline.__call__).parameters
        for name in re.findall(r"`([a-z_0-9]+)=?`", what):
            assert name in (ELSEWHERE if state == "not here" else known), name
