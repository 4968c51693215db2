"""read_config: types, bounds, unknown keys, and all problems at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest
import tiny
from diffusers import DPMSolverMultistepScheduler
from hypothesis import given
from hypothesis import strategies as st

from pyengine.errors import ConfigError
from pyengine.weights import load_json, read_config, resolve
from pyengine.weights.config import IGNORE, ignoring
from pyengine.weights.jsonio import parse_object


@dataclass(frozen=True)
class Inner:
    depth: int = 1
    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset()


@dataclass(frozen=True)
class Config:
    width: int = field(metadata={"min": 1, "max": 64})
    kind: Literal["a", "b", 1] = "a"
    scale: float = field(default=1.0, metadata={"min": 0})
    heads: int | tuple[int, ...] = field(default=8, metadata={"min": 1, "max_items": 4})
    pair: tuple[int, str] = (1, "x")
    name: str | None = None
    flag: bool = False
    number: int | float = 0
    inner: Inner = Inner()
    anything: Any = None
    IGNORED_KEYS: ClassVar[frozenset[str]] = frozenset({"dropout"})
    CLASS_NAMES: ClassVar[tuple[str, ...]] = ("Config", "OldConfig")

    def __post_init__(self):
        if self.width == 13:
            raise ValueError("width 13 is unlucky")


def test_good():
    data = {
        "width": 3,
        "kind": "b",
        "scale": 2,
        "heads": [1, 2],
        "pair": [4, "y"],
        "name": "n",
        "flag": True,
        "number": 2.5,
        "inner": {"depth": 7},
        "anything": {"x": []},
        "dropout": 0.1,
        "_class_name": "OldConfig",
        "_commit_hash": [1],
    }
    config = read_config(Config, data)
    assert config == Config(
        3, "b", 2.0, (1, 2), (4, "y"), "n", True, 2.5, Inner(7), anything={"x": []}
    )
    assert type(config.scale) is float
    assert type(read_config(Config, {"width": 1, "number": 3}).number) is int
    assert read_config(Config, {"width": 1, "kind": 1}).kind == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "width is missing"),
        ({"width": 0}, "width is 0, expected 1 to 64"),
        ({"width": 65}, "width is 65"),
        ({"width": 1.5}, "width must be a whole number, found 1.5"),
        ({"width": 65.0}, "width is 65"),
        ({"width": 1e300}, "width is 1000000"),
        ({"width": float("inf")}, "width must be a whole number, found inf"),
        ({"width": "1.0"}, "width must be a whole number, found '1.0'"),
        ({"width": True}, "width must be a whole number, found True"),
        ({"width": None}, "width must be a whole number, found None"),
        ({"width": 1, "kind": True}, "kind is True, expected 'a' or 'b' or 1"),
        ({"width": 1, "scale": -0.5}, "scale is -0.5, expected 0 to 1.79"),
        ({"width": 1, "scale": float("nan")}, "scale is nan"),
        ({"width": 1, "scale": float("inf")}, "scale is inf"),
        ({"width": 1, "scale": 10**400}, "scale is"),
        ({"width": 1, "heads": 0}, "heads is 0, expected 1 to"),
        ({"width": 1, "heads": [1, 0]}, "heads is 0, expected 1 to"),
        ({"width": 1, "heads": [1] * 5}, "heads has 5 items, at most 4"),
        ({"width": 1, "heads": "8"}, "heads must be a whole number or list"),
        ({"width": 1, "pair": [1]}, "pair has 1 items, expected 2"),
        ({"width": 1, "pair": [1, 2]}, "pair must be a string, found 2"),
        ({"width": 1, "name": "x" * 300}, "name has 300 characters"),
        ({"width": 1, "flag": 1}, "flag must be true or false, found 1"),
        ({"width": 1, "inner": {"depht": 1}}, "inner: unknown keys 'depht'"),
        ({"width": 1, "inner": 3}, "inner: expected a JSON object, found 3"),
        ({"width": 13}, "width 13 is unlucky"),
        ({"width": 1, "_class_name": "Other"}, "_class_name is 'Other', expected Config or Old"),
        ({"width": 1, "x\x1b[2J": 1}, r"unknown keys 'x\\x1b\[2J'"),
        (
            {"width": 1, "on": True},
            r"'on' \(to load it without them: ignore_config_keys=\['on'\]\)",
        ),
        ({"width": 1, "zero": 0}, "unknown keys 'zero'"),
        ({"width": 1, "nested": [[]]}, "unknown keys 'nested'"),
        ([], r"expected a JSON object, found \[\]"),
    ],
)
def test_bad(data, message):
    with pytest.raises(ConfigError, match=f"^here.json: .*{message}"):
        read_config(Config, data, "here.json")


def test_whole_floats_are_integers():
    config = read_config(Config, {"width": 3.0, "heads": [2.0, 4], "pair": [-0.0, "x"]})
    assert (config.width, config.heads, config.pair) == (3, (2, 4), (0, "x"))
    assert [type(n) for n in (config.width, *config.heads, config.pair[0])] == [int] * 4
    assert type(read_config(Config, {"width": 1, "number": 2.0}).number) is float


@pytest.mark.parametrize("value", [None, False, "", [], {}], ids=repr)
def test_unknown_options_that_are_off_change_nothing(value):
    assert read_config(Config, {"width": 1, "magic": value, "inner": {"wand": value}}) == Config(1)


def test_unknown_keys_can_be_left_out():
    data = {"width": 3, "magic": 1, "wand": [2], "inner": {"depth": 7, "magic": 1}}
    marked = ignoring(data, ("magic", "wand", "depth"))
    assert read_config(Config, marked) == Config(3, inner=Inner(7)), "known keys are read"
    with pytest.raises(ConfigError, match=r"unknown keys 'wand' \("):
        read_config(Config, ignoring(data, ("magic",)))
    with pytest.raises(ConfigError, match=r"unknown keys 'magic', 'wand'$"):
        read_config(Config, {**data, "inner": {}}, of_checkpoint=False)


@pytest.mark.parametrize("said", [["magic"], "magic", 7, {"magic": 1}])
def test_a_file_cannot_leave_out_its_own_keys(said):
    for data in ({IGNORE: said, "magic": 1}, {"inner": {IGNORE: said, "magic": 1}}):
        with pytest.raises(ConfigError, match="unknown keys 'magic'"):
            read_config(Config, {"width": 1, **data})


def test_all_problems_are_listed():
    with pytest.raises(ConfigError) as e:
        read_config(Config, {"width": "w", "flag": 0, "up": 1, "down": 2, "name": 5})
    for part in ("'down', 'up'", "width must", "flag must", "name must"):
        assert part in str(e.value)


@given(st.text(max_size=60))
def test_json_text_never_escapes_our_errors(text):
    try:
        value = parse_object(text.encode("utf-8", "surrogatepass"), "x")
    except ConfigError:
        return
    assert isinstance(value, dict)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(10**15), 10**15), st.floats(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["width", "kind", "scale", "heads", "pair", "x"]), JSON))
def test_values_never_escape_our_errors(data):
    try:
        config = read_config(Config, data)
    except ConfigError:
        return
    assert 1 <= config.width <= 64


def test_json_is_read_as_the_library_reads_it(tmp_path):
    text = r'{"a": [1, -2.5e3, "\u00e9\"\\", true, null, {"b": []}], "\\\\": "{[", "c": "]}"}'
    (tmp_path / "x.json").write_text(text)
    import json

    assert load_json(tmp_path / "x.json") == json.loads(text)


def test_minus_infinity_only_where_it_is_expected(tmp_path):
    file = tmp_path / "x.json"
    file.write_text('{"a": -Infinity, "b": {"a": -Infinity}}')
    assert load_json(file, unbounded=frozenset({"a"})) == {"a": -math.inf, "b": {"a": -math.inf}}
    for text in ('{"b": -Infinity}', '{"a": [-Infinity]}', '{"a": Infinity}', '{"a": NaN}'):
        file.write_text(text)
        with pytest.raises(ConfigError, match="is not JSON"):
            load_json(file, unbounded=frozenset({"a"}))


def test_scheduler_config_as_dpmsolver_saves_it(tmp_path):
    folder = tiny.write_sd1(tmp_path / "c")
    DPMSolverMultistepScheduler().save_pretrained(folder / "scheduler")
    assert resolve(folder).config("scheduler")["lambda_min_clipped"] == -math.inf
