"""Where `pyengine generate` writes: names, numbers, and what is refused before any work."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pyengine import images
from pyengine.cli import files
from pyengine.cli.files import slug
from pyengine.errors import RequestError

FAST = ("--steps", "1", "--height", "32", "--width", "32")


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A red heart!", "a-red-heart"),
        ("../../etc/passwd", "etc-passwd"),
        (".hidden", "hidden"),
        ("...", "picture-ab5df625"),
        ("!?", None),
        ("", "picture"),
        ("  ", "picture"),
        ("crème brûlée", "creme-brulee"),
        ("Straße", "strasse"),
        ("漢字", "漢字"),
        ("красное сердце", "красное-сердце"),
        ("ένα κόκκινο", "ένα-κόκκινο"),
        ("लाल दिल", "लाल-दिल"),
        ("빨간 하트", "빨간-하트"),
        ("❤️", "heavy-black-heart"),
        ("a 🐈", "a"),
        ("\u202egnp.exe", "gnp-exe"),
        ("\ud800", None),
        ("x" * 200, "x" * 60),
        ("漢" * 200, "漢" * 40),
        ("a\0b\nc", "a-b-c"),
        ("CON", "con-picture"),
        ("com1", "com1-picture"),
        ("ﬁre", "fire"),
    ],
)
def test_slug(prompt, name):
    made = slug(prompt)
    assert made == name or (name is None and made.startswith("picture-"))
    assert len(os.fsencode(made)) <= 120
    assert made.strip("-.") == made


def test_prompts_without_letters_have_names_of_their_own():
    assert len({slug(p) for p in ("!", "?", "...", "", "❤️", "🐈", "漢", "字", "\ud800")}) == 9


def test_a_file_system_of_ascii_names(monkeypatch):
    def ascii_only(name):
        return name.encode("ascii")

    monkeypatch.setattr(files.os, "fsencode", ascii_only)
    assert slug("漢字").startswith("picture-")
    assert slug("漢字") != slug("漢")
    assert slug("a cat") == "a-cat"


@pytest.fixture
def generate(run, model):
    def call(*arguments, ok=True):
        status, out, err = run("generate", *arguments, "--model", model, *FAST)
        assert status == 0 or not ok, err
        return out.splitlines() if ok else (status, out, err)

    return call


def test_files_that_are_there_stay(generate, tmp_path):
    first = generate("a cat", "--seed", "1")[0]
    kept = Path(first).read_bytes()
    names = [generate("a cat", "--seed", str(i))[0] for i in (2, 3)]
    assert [Path(n).name for n in names] == ["a-cat-2.png", "a-cat-3.png"]
    assert Path(first).read_bytes() == kept
    # Several are numbered from 1, or from where the numbers end.
    assert [Path(n).name for n in generate("a dog", "-n", "2")[:2]] == [
        "a-dog-1.png",
        "a-dog-2.png",
    ]
    assert [Path(n).name for n in generate("a dog", "-n", "2")[:2]] == [
        "a-dog-3.png",
        "a-dog-4.png",
    ]
    assert Path(generate("a dog", "-n", "2", "--grid")[0]).name == "a-dog.png"
    # A folder is as the usual one.
    for i in (1, 2):
        assert Path(generate("a cat", "-o", "there")[0]).name == ["a-cat.png", "a-cat-2.png"][i - 1]
    assert not [p for p in (tmp_path / "out").iterdir() if p.suffix != ".png"]


def test_a_file_that_is_named_is_replaced_and_that_is_said(generate):
    assert not any("replaced" in line for line in generate("a cat", "-o", "x.png", "--seed", "1"))
    lines = generate("a dog", "-o", "x.png", "--seed", "1")
    assert lines[0] == "x.png"
    assert "  replaced x.png" in lines
    answer = json.loads(generate("a dog", "-n", "2", "-o", "x.png", "--json")[0])
    assert (answer["files"], answer["replaced"]) == (["x-1.png", "x-2.png"], [])
    answer = json.loads(generate("a dog", "-o", "x.png", "--json")[0])
    assert answer["replaced"] == ["x.png"]


def test_two_at_a_time_never_write_one_file(tmp_path):
    picture = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    place = files.place(str(tmp_path), "a cat")
    with ThreadPoolExecutor(8) as pool:
        saved = list(pool.map(lambda i: place.save([picture], [None])[0][0], range(24)))
    assert len(set(saved)) == 24
    assert {p.name for p in tmp_path.iterdir()} == {p.name for p in saved}
    assert all(p.stat().st_nlink == 1 for p in saved)


def test_a_file_system_without_links(tmp_path, monkeypatch):
    def refused(*paths):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(images.os, "link", refused)
    picture = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    assert images.save_new(picture, tmp_path / "x.png")
    assert not images.save_new(picture, tmp_path / "x.png")
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
    assert Image.open(tmp_path / "x.png").size == (4, 4)


@pytest.mark.parametrize("name", ["run-1.5/", "run-1.5", "pictures/", "v2.0/a.b/"])
def test_folders_with_dots(generate, tmp_path, name):
    assert Path(generate("a cat", "-o", name)[0]) == Path(name) / "a-cat.png"
    assert (tmp_path / name / "a-cat.png").exists()


@pytest.mark.parametrize("name", ["x.gif", "x.jpg", "x.JPEG", "x.pgn", "a/b.txt", "", "x\0.png"])
def test_names_that_are_neither_pictures_nor_folders(name):
    with pytest.raises(RequestError, match=r"^output: expected a \.png file"):
        files.place(name, "a cat")
    assert files.place(name + "/", "a cat").path.name == "a-cat.png" if name[:1] == "x." else True


@pytest.fixture
def no_work(monkeypatch):
    import pyengine.cli.generate as module

    def loaded(*args, **kwargs):
        raise AssertionError("loaded, though nothing can be written")

    monkeypatch.setattr(module, "from_pretrained", loaded)


BEFORE = [
    ("a-file/x.png", "is none"),
    ("a-file/deeper/x.png", "is none"),
    ("a-file/", "is none"),
    ("a-folder.png/../a-folder.png", None),
    ("/proc/nowhere/x.png", "cannot be written"),
    ("/dev/null/x.png", "is none"),
    ("y" * 300 + ".png", "cannot be written"),
    ("a-pipe.png", "is something else"),
    ("dangling/x.png", "is none"),
]


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(("output", "text"), BEFORE)
def test_what_cannot_be_written_is_found_before_any_work(generate, tmp_path, output, text):
    (tmp_path / "a-file").write_text("x")
    (tmp_path / "a-folder.png").mkdir()
    os.mkfifo(tmp_path / "a-pipe.png")
    (tmp_path / "dangling").symlink_to(tmp_path / "gone")
    if text is None:  # a folder, whatever its name
        assert files.place(output, "a cat").path.name == "a-cat.png"
        return
    before = sorted(os.listdir(tmp_path))
    status, out, err = generate("a cat", "-o", output, ok=False)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("pyengine: --output: ")
    assert text in err
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(("call", "number"), [("write", 28), ("write", 122), ("open", 30)])
def test_a_full_or_read_only_disk_is_found_before_any_work(generate, monkeypatch, call, number):
    """The disk as the probe finds it: no space left, quota exceeded, read-only file system."""

    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *exception):
            return False

        def write(self, data):
            raise OSError(number, os.strerror(number))

    def temporary(dir):
        if call == "open":
            raise OSError(number, os.strerror(number))
        return Full()

    monkeypatch.setattr(files.tempfile, "TemporaryFile", temporary)
    for output in ("x.png", "new/", "new/x.png"):
        status, out, err = generate("a cat", "-o", output, ok=False)
        assert (status, out) == (2, "")
        assert os.strerror(number) in err
        assert not Path("new").exists()


@pytest.mark.usefixtures("no_work")
def test_a_preview_that_cannot_be_written(generate, tmp_path):
    (tmp_path / "a-file").write_text("x")
    status, _, err = generate("a cat", "--preview", "a-file/p.png", ok=False)
    assert status == 2
    assert err.startswith("pyengine: --preview: ")


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_read_only_folder(generate, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir(mode=0o500)
    assert generate("a cat", "-o", "mine/", ok=False)[0] == 2


def test_the_name_reaches_a_terminal_of_any_encoding(model, tmp_path):
    from test_generate import environment

    done = subprocess.run(
        [sys.executable, "-m", "pyengine", "generate", "漢字", "--model", model, *FAST],
        cwd=tmp_path,
        capture_output=True,
        check=False,
        env={**environment(), "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "漢字.png").exists()
    assert done.stdout.splitlines()[0] == rb"out/\u6f22\u5b57.png"
