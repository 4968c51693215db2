"""What the object files of an instruction set offer: nothing that runs before the CPU was asked.

Code compiled for AVX-512 ends a process on a CPU without it, at the import of pyengine._core if a
constructor calls it, and a machine that has AVX-512 never notices.
"""

import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OBJECTS = ROOT / f"build/cmake-{sysconfig.get_config_var('SOABI')}/csrc/core/CMakeFiles"

pytestmark = [
    pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm, of binutils"),
    pytest.mark.skipif(
        not OBJECTS.is_dir(), reason="the objects of an in-place build are not there"
    ),
]


@pytest.fixture(scope="module")
def symbols():
    """Folder of objects -> [(nm's letter, name)]."""
    found = {}
    for folder in OBJECTS.glob("pyengine_*.dir"):
        objects = sorted(folder.rglob("*.o"))
        if not objects:
            continue
        out = subprocess.run(
            ["nm", "-C", *objects], check=True, capture_output=True, text=True
        ).stdout
        lines = [line[17:] for line in out.splitlines() if len(line) > 18 and line[18] == " "]
        found[folder.name.removeprefix("pyengine_").removesuffix(".dir")] = [
            (line[0], line[2:]) for line in lines
        ]
    return found


def _above_the_baseline(symbols):
    return {name: of for name, of in symbols.items() if name not in ("core", "portable")}


def test_the_baseline_takes_data_alone_from_an_instruction_set(symbols):
    asked = {name for letter, name in symbols["core"] if letter == "U" and "pyengine::isa_" in name}
    asked |= {name for letter, name in symbols["portable"] if letter == "U" and "::isa_" in name}
    offered = {
        name: letter
        for of in _above_the_baseline(symbols).values()
        for letter, name in of
        if letter != "U"
    }
    taken = {name: offered[name] for name in asked if name in offered}
    assert len(taken) > 4
    assert {name: letter for name, letter in taken.items() if letter not in "DR"} == {}


def test_no_object_of_an_instruction_set_has_a_constructor(symbols):
    for name, of in _above_the_baseline(symbols).items():
        assert [s for _, s in of if "_GLOBAL__" in s or "__static_init" in s] == [], name


def test_an_instruction_set_shares_no_function_with_others(symbols):
    """Of a function that several objects define the linker keeps one, whoever compiled it."""
    for name, of in _above_the_baseline(symbols).items():
        shared = [
            symbol
            for letter, symbol in of
            if letter in "TWu" and f"pyengine::isa_{name}::" not in symbol
        ]
        assert shared == [], name
