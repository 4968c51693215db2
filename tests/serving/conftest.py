"""Engines of the shipped models and a tiny one, and servers over them."""

import pytest
import tiny

import pyengine

pytest.importorskip("fastapi", reason="needs the extra `serve`")

from served import running


@pytest.fixture(scope="session")
def pipes(tmp_path_factory):
    """Pipelines by name: the shipped ones and a tiny one."""
    folder = tiny.write_sd1(tmp_path_factory.mktemp("serving") / "sd1")
    made = {name: pyengine.from_pretrained(name) for name in ("emoji", "emoji-ar")}
    return made | {"sd1": pyengine.from_pretrained(folder, device="cpu")}


@pytest.fixture(scope="session")
def engine(pipes):
    with pyengine.Engine(*pipes.values()) as made:
        for name in ("emoji", "emoji-ar"):  # what they cost is known
            made.submit(name, prompt="a").result(60)
        yield made


@pytest.fixture(scope="session")
def server(engine):
    """One without keys."""
    with running(engine, ping=0.2) as found:
        yield found


@pytest.fixture
def serve(engine):
    """serve(api_keys=...): a server of its own, for the time of the block; see `running`."""
    return lambda **settings: running(settings.pop("engine", engine), **settings)
