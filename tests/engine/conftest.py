import pytest
import tiny
from manual import Manual

import pyengine

#: Checkpoints whose pictures are drawn in milliseconds.
TINY = {"sd1": tiny.write_sd1, "gpt": tiny.write_picture_gpt, "amused": tiny.write_amused}


@pytest.fixture(scope="session")
def pipes(tmp_path_factory):
    """Pipelines by name: the shipped ones and tiny ones."""
    made = {name: pyengine.from_pretrained(name) for name in ("emoji", "emoji-ar")}
    for name, write in TINY.items():
        folder = write(tmp_path_factory.mktemp("engine") / name)
        made[name] = pyengine.from_pretrained(folder, device="cpu")
    return made


@pytest.fixture
def manual(pipes, monkeypatch):
    """manual("sd1", "gpt", max_waiting=2): an engine without a thread; see Manual."""
    return lambda *names, **how: Manual(pipes, names, how, monkeypatch)
