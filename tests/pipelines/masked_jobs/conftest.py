"""A tiny aMUSEd, and what its calls give."""

import pytest
import tiny
from masked_calls import calls

import pyengine


@pytest.fixture(scope="module")
def pipe(tmp_path_factory):
    folder = tiny.write_amused(tmp_path_factory.mktemp("checkpoints") / "amused")
    return pyengine.from_pretrained(folder, device="cpu")


@pytest.fixture(scope="module")
def alone(pipe):
    """Of each of `calls`, what the call gives."""
    return [pipe(**call) for call in calls()]
