import shutil

import pytest
from adapter_pairs import WRITERS, Opened


def pytest_collection_modifyitems(items):
    for item in items:
        for category in ("FutureWarning", "DeprecationWarning"):
            item.add_marker(pytest.mark.filterwarnings(f"ignore::{category}:diffusers"))


@pytest.fixture(scope="session")
def opened(tmp_path_factory):
    """opened("sd1"): that tiny checkpoint, written and loaded once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = Opened(WRITERS[name](tmp_path_factory.mktemp("checkpoints") / name))
        return made[name]

    return get


@pytest.fixture
def copied(opened, tmp_path):
    """copied("sd1"): a copy of its folder, to be changed."""
    return lambda name: shutil.copytree(opened(name).folder, tmp_path / "copy")
