"""Pictures for datasets: the rows' own seeds, whatever batch, actor or retry draws them."""

import os
import signal
import sys

import numpy as np
import pytest
import tiny

import pyengine
import pyengine.ray
from pyengine.errors import CheckpointError, RequestError, UnavailableError, UnknownArgumentError
from pyengine.ray.data import Drawer
from pyengine.ray.resume import ids_in

CALL = {"num_inference_steps": 2, "height": 32, "width": 32}
PROMPTS = ("a red heart", "a cat", "two dogs and a tree")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny.write_sd1(tmp_path_factory.mktemp("ray") / "sd1"))


@pytest.fixture(scope="module")
def data(cluster):
    from ray import data

    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    return data


def rows_of(count, ids=str):
    return [{"id": ids(k), "prompt": PROMPTS[k % 3], "more": k} for k in range(count)]


def test_seeds_are_functions_of_ids():
    assert pyengine.ray.seed_of("row-1") == 530280719  # of SHA-256, as told: never to change
    assert pyengine.ray.seed_of(17) == pyengine.ray.seed_of("17") == pyengine.ray.seed_of(b"17")
    assert pyengine.ray.seed_of(np.int64(17)) == pyengine.ray.seed_of(17)
    assert len({pyengine.ray.seed_of(k) for k in range(2000)}) == 2000
    for bad in (1.5, None, True, np.float32(1)):
        with pytest.raises(RequestError, match="id: expected a whole number, a text or bytes"):
            pyengine.ray.seed_of(bad)


class Killed(Drawer):
    """Ends its own process within its second batch, once."""

    def __call__(self, batch):
        once = self._call.pop("once")
        try:
            if os.path.exists(once) and os.path.getsize(once) == 0:
                with open(once, "w") as file:
                    file.write("killed")
                os.kill(os.getpid(), signal.SIGKILL)
            drawn = super().__call__(batch)
            open(once, "a").close()
            return drawn
        finally:
            self._call["once"] = once


@pytest.mark.slow
def test_rows_come_back_with_the_pictures_of_the_call(data, folder, tmp_path, monkeypatch):
    """Drawn by two actors, one of which is killed on the way; written, and gone on with."""
    import ray.cloudpickle

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr("pyengine.ray.data.Drawer", Killed)
    monkeypatch.setattr("pyengine.ray.data._check_call", lambda call: None)
    once, out = tmp_path / "once", tmp_path / "out"
    dataset = data.from_items(rows_of(10), override_num_blocks=4)
    pyengine.ray.generate(
        dataset.filter(lambda row: row["more"] not in (4, 7)),
        model=folder,
        concurrency=2,
        num_cpus=0.5,
        batch_size=3,
        once=str(once),
        **CALL,
    ).write_parquet(str(out))
    assert once.read_text() == "killed"
    monkeypatch.undo()

    assert ids_in(out) == {str(k) for k in range(10) if k not in (4, 7)}
    rest = pyengine.ray.generate(dataset, model=folder, resume=out, **CALL).take_all()
    assert sorted(row["more"] for row in rest) == [4, 7]
    pipe = pyengine.from_pretrained(folder)
    for row in [*rest, *data.read_parquet(str(out)).take_all()]:
        assert set(row) == {"id", "prompt", "more", "seed", "image"}
        assert row["seed"] == pyengine.ray.seed_of(row["id"])
        assert row["image"].dtype == np.uint8
        output = pipe(row["prompt"], seed=row["seed"], progress=False, **CALL)
        np.testing.assert_array_equal(row["image"], np.asarray(output.images[0]))


def test_a_file_that_was_cut_off_is_named(tmp_path):
    pytest.importorskip("pyarrow")
    assert ids_in(tmp_path / "nothing") == frozenset()
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(CheckpointError, match=r"cut\.parquet, which is not: delete it"):
        ids_in(tmp_path)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"seed": 3}, RequestError, "seed: expected none; it follows from a row's id"),
        ({"output_type": "np"}, RequestError, "output_type: expected none"),
        ({"num_inference_steps": "many"}, RequestError, "num_inference_steps: expected"),
        ({"num_inference_step": 3}, UnknownArgumentError, "did you mean num_inference_steps"),
        ({"model": 7}, RequestError, "model: expected a name or a path"),
        ({"batch_size": 0}, RequestError, "batch_size: expected"),
        ({"concurrency": (3, 1)}, RequestError, "concurrency: expected"),
        ({"num_cpus": -1}, RequestError, "num_cpus: expected"),
    ],
)
def test_what_is_refused_before_anything_is_drawn(data, given, error, words):
    with pytest.raises(error, match=words):
        pyengine.ray.generate(data.from_items(rows_of(1)), **given)


def test_what_is_no_dataset_is_refused(data):
    with pytest.raises(RequestError, match=r"dataset: expected a ray\.data\.Dataset, given list"):
        pyengine.ray.generate(rows_of(1))


def batch_of(**columns):
    return {name: np.array(values) for name, values in columns.items()}


def test_what_a_model_refuses_names_the_row(folder):
    drawer = Drawer(folder, {}, {"num_inference_steps": 1, "clip_skip": 99}, 4)
    with pytest.raises(RequestError, match="row 'x1': clip_skip: expected"):
        drawer(batch_of(id=["x1"], prompt=["a cat"]))
    with pytest.raises(RequestError, match="dataset: expected rows with id and prompt, given id"):
        drawer(batch_of(id=["x1"]))
    missing = Drawer("no/such/folder", {}, {}, 4)  # an actor that fails is started again and again
    with pytest.raises(CheckpointError):
        missing(batch_of(id=["x1"], prompt=["a cat"]))


@pytest.mark.slow
def test_the_words_of_a_refusal_reach_the_driver(data, folder):
    rows = pyengine.ray.generate(data.from_items(rows_of(1)), model=folder, clip_skip=99)
    with pytest.raises(Exception, match="row '0': clip_skip: expected"):
        rows.take_all()


def test_without_ray_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.data", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UnavailableError, match=r"pip install 'pyengine\[ray\]'"):
        pyengine.ray.generate([])
