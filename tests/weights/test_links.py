"""Links out of a checkpoint's folder, and folders that are gone: what is said, and what helps."""

from __future__ import annotations

import os
import re
import shutil
import threading
from pathlib import Path

import pytest
import tiny

import pyengine
from pyengine.errors import CheckpointError
from pyengine.weights import resolve

WRITERS = {
    "sd1": tiny.write_sd1,
    "amused": tiny.write_amused,
    "image_gpt": tiny.write_image_gpt,
    "janus": tiny.write_janus,
    "picture_gpt": tiny.write_picture_gpt,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """written(kind) -> a folder. Do not change it: copy it."""
    root, made = tmp_path_factory.mktemp("written"), {}

    def write(kind: str) -> Path:
        if kind not in made:
            made[kind] = WRITERS[kind](root / kind)
        return made[kind]

    return write


def link_all(source: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_of_links_says_where_they_lead(kind, written, tmp_path):
    source = written(kind)
    folder = link_all(source, tmp_path / "links")
    with pytest.raises(CheckpointError) as caught:
        pyengine.from_pretrained(folder, device="cpu")
    message = str(caught.value)
    first = "model_index.json" if (source / "model_index.json").exists() else "config.json"
    assert re.search(f"{first}: leads outside the checkpoint, to .*{first}'", message)
    for path in source.iterdir():
        assert path.name in message, "it names every link"
    assert f"load '{os.path.realpath(source)}' itself, or copy the files" in message
    assert pyengine.from_pretrained(os.path.realpath(source), device="cpu")


def test_links_to_other_names_can_only_be_copied(written, tmp_path):
    folder = Path(shutil.copytree(written("janus"), tmp_path / "c"))
    (folder / "config.json").rename(tmp_path / "0a1b2c")
    (folder / "config.json").symlink_to(tmp_path / "0a1b2c")
    with pytest.raises(
        CheckpointError, match=r"0a1b2c'; links may .* blobs: copy the files into it"
    ):
        resolve(folder)


@pytest.mark.parametrize("name", ["unet", "vae"])
def test_a_link_to_a_parts_folder(name, written, tmp_path):
    folder = Path(shutil.copytree(written("sd1"), tmp_path / "c"))
    (folder / name).rename(tmp_path / name)
    (folder / name).symlink_to(tmp_path / name)
    with pytest.raises(
        CheckpointError, match=f"{name}: leads outside the checkpoint.*copy the files"
    ):
        pyengine.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize(("kind", "name"), [("sd1", "model_index.json"), ("janus", "config.json")])
def test_a_link_to_nothing(kind, name, written, tmp_path):
    folder = Path(shutil.copytree(written(kind), tmp_path / "c"))
    (folder / name).unlink()
    (folder / name).symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match=f"{name} is a link to '.*gone', where nothing is"):
        resolve(folder)


def test_links_within_the_folder_and_to_it(written, tmp_path):
    folder = Path(shutil.copytree(written("image_gpt"), tmp_path / "c"))
    (folder / "config.json").rename(folder / "real.json")
    (folder / "config.json").symlink_to("real.json")
    (tmp_path / "link").symlink_to(folder)
    assert resolve(tmp_path / "link").components == ("model",)


@pytest.mark.parametrize("kind", ["image_gpt", "sd1"])
def test_links_of_a_hub_cache(kind, written, tmp_path):
    repo = tmp_path / "models--someone--model"
    folder = Path(shutil.copytree(written(kind), repo / "snapshots" / "abc"))
    (repo / "blobs").mkdir()
    for i, path in enumerate(p for p in sorted(folder.rglob("*")) if p.is_file()):
        path.rename(repo / "blobs" / str(i))
        path.symlink_to(repo / "blobs" / str(i))
    assert pyengine.from_pretrained(folder, device="cpu")


# --- folders that are gone ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WRITERS)
def test_the_hash_of_a_model_whose_folder_is_gone(kind, written, tmp_path):
    want = resolve(written(kind)).model_hash
    folder = Path(shutil.copytree(written(kind), tmp_path / "c"))
    pipe = pyengine.from_pretrained(folder, device="cpu")
    shutil.rmtree(folder)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(pipe.model_hash)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [want] * 4
    assert pipe.model_hash == want


def test_the_hash_is_of_what_was_loaded(written, tmp_path):
    folder = Path(shutil.copytree(written("sd1"), tmp_path / "c"))
    pipe = pyengine.from_pretrained(folder, device="cpu")
    shutil.rmtree(folder)
    tiny.write_sd1(folder, seed=9)
    assert pipe.model_hash == resolve(written("sd1")).model_hash != resolve(folder).model_hash


def test_a_checkpoint_that_was_never_loaded_and_is_gone(written, tmp_path):
    folder = Path(shutil.copytree(written("sd1"), tmp_path / "c"))
    checkpoint = resolve(folder)
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="no such folder"):
        checkpoint.model_hash  # noqa: B018
    for name in ("unet", "scheduler"):
        with pytest.raises(CheckpointError, match="no such file"):
            checkpoint.config(name)
