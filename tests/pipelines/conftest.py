import drawn
import pytest
import tiny
from pairs import WRITERS, Pair, quiet

import pyengine

TOKEN_WRITERS = {
    "amused": tiny.write_amused,
    "image_gpt": tiny.write_image_gpt,
    "janus": tiny.write_janus,
}
CALLS = {
    "sd1": {"prompt": "a cat", "num_inference_steps": 6, "height": 32, "width": 32},
    "amused": {"prompt": "a cat", "num_inference_steps": 6},
    "image_gpt": {"decoding": "sequential"},
    "janus": {"prompt": "a cat"},
}


def pytest_collection_modifyitems(items):
    """What diffusers and NumPy say about diffusers is not ours to mend."""
    for item in items:
        for category in ("FutureWarning", "DeprecationWarning"):
            item.add_marker(pytest.mark.filterwarnings(f"ignore::{category}:diffusers"))


@pytest.fixture(scope="session", autouse=True)
def quiet_peers():
    quiet()


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
def opened(pair, tmp_path_factory):
    """opened(kind): (a pipeline of that kind, the arguments of a short call)."""
    made = {}

    def get(kind):
        if kind == "sd1":
            return pair("sd1").own, {"seed": 1, "output_type": "latent", **CALLS[kind]}
        if kind not in made:
            folder = TOKEN_WRITERS[kind](tmp_path_factory.mktemp("runs") / kind)
            made[kind] = pyengine.from_pretrained(folder, device="cpu")
        return made[kind], {"seed": 1, "output_type": "latent", **CALLS[kind]}

    return get


@pytest.fixture(scope="session")
def photo():
    """A picture with edges, colours and gradients, 80 x 48."""
    return drawn.photo(80, 48, tile=8)


@pytest.fixture(scope="session")
def mask():
    """White, to be made anew, in the middle; its edges cut through latent pixels."""
    return drawn.hole(80, 48, 19, 10, 60, 37)
