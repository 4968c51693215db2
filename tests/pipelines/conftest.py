import numpy as np
import pytest
import torch
from pairs import WRITERS, Pair, quiet
from PIL import Image


def pytest_collection_modifyitems(items):
    """What diffusers and NumPy say about diffusers is not ours to mend."""
    for item in items:
        for category in ("FutureWarning", "DeprecationWarning"):
            item.add_marker(pytest.mark.filterwarnings(f"ignore::{category}:diffusers"))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tiny pictures: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    quiet()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def pair(tmp_path_factory):
    """pair("sd1"): the checkpoint of that name, written and opened once."""
    made = {}

    def get(name: str) -> Pair:
        if name not in made:
            made[name] = Pair(WRITERS[name](tmp_path_factory.mktemp("checkpoints") / name))
        return made[name]

    return get


@pytest.fixture(scope="session")
def photo():
    """A picture with edges, colours and gradients, 80 x 48."""
    y, x = np.mgrid[0:48, 0:80]
    channels = (x / 79, y / 47, ((x // 8 + y // 8) % 2))
    return Image.fromarray((np.stack(channels, axis=-1) * 255).astype(np.uint8))


@pytest.fixture(scope="session")
def mask():
    """White, to be made anew, in the middle; its edges cut through latent pixels."""
    pixels = np.zeros((48, 80), np.uint8)
    pixels[10:37, 19:60] = 255
    return Image.fromarray(pixels)
