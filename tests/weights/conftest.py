"""Tiny checkpoints of this folder's tests, written once a session."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from original_layout import WIDE, write_original

WRITERS = {"sd1": tiny.write_sd1, "sd2": tiny.write_sd2, "sdxl": tiny.write_sdxl}


@pytest.fixture(scope="session")
def wide(tmp_path_factory):
    """wide(family) -> a diffusers folder whose sizes a single file can show."""
    root, made = tmp_path_factory.mktemp("wide"), {}

    def write(family: str) -> Path:
        if family not in made:
            made[family] = WRITERS[family](root / family, **WIDE[family])
        return made[family]

    return write


@pytest.fixture(scope="session")
def single(wide, tmp_path_factory):
    """single(family) -> the same weights as one file in the original layout, tokenizer beside."""
    root, made = tmp_path_factory.mktemp("single"), {}

    def write(family: str) -> Path:
        if family not in made:
            folder = root / family
            tiny.write_tokenizer(folder / "tokenizer")
            made[family] = write_original(wide(family), folder / "model.safetensors", family)
        return made[family]

    return write


@pytest.fixture(scope="session")
def sd1(tmp_path_factory) -> Path:
    """A tiny SD 1.x folder. Do not change it: copy it."""
    return tiny.write_sd1(tmp_path_factory.mktemp("sd1") / "checkpoint")
