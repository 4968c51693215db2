"""The data set's builder on a tiny tree of packages, and what refuses bad data."""

import json
import subprocess

import numpy as np
import pytest
from PIL import Image

from pyengine.errors import RequestError, UnavailableError
from pyengine.training import data, dataset


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


@pytest.fixture
def packages(tmp_path):
    """Two emoji, one with a skin tone, in every set; one icon hidden, one without a name."""
    root = tmp_path / "packages"
    modules = root / "node_modules"
    names = [
        {"hexcode": "2764", "label": "red heart", "tags": ["love"]},
        {
            "hexcode": "1F44D",
            "label": "thumbs up",
            "tags": ["hand"],
            "skins": [{"hexcode": "1F44D-1F3FB", "label": "thumbs up: light skin tone"}],
        },
    ]
    write(modules / "emojibase-data/en/data.json", names)
    body = '<rect width="16" height="16" fill="#ff0000"/>'
    icons = {
        "height": 16,
        "icons": {
            "heart": {"body": body},
            "thumb": {"body": body, "width": 32, "height": 32},
            "tone": {"body": body},
            "secret": {"body": body, "hidden": True},
            "nameless": {"body": body},
        },
    }
    chars = {
        "2764-fe0f": "heart",
        "1f44d": "thumb",
        "1f44d-1f3fb": "tone",
        "1f600": "secret",
        "e000": "nameless",
    }
    for name in data.PACKAGES:
        if name.startswith("@iconify-json"):
            write(modules / name / "icons.json", icons)
    for name in ("noto", "twemoji", "fluent-emoji-flat"):
        write(modules / "@iconify-json" / name / "chars.json", chars)
    assets = modules / data.WEBP_PACKAGE / "assets"
    assets.mkdir(parents=True)
    picture = Image.new("RGBA", (128, 128), (0, 0, 255, 0))
    picture.paste((0, 0, 255, 255), (0, 0, 128, 64))
    picture.save(assets / "2764-fe0f.webp", lossless=True)
    return root


@pytest.fixture
def no_resvg(monkeypatch):
    monkeypatch.setattr(
        data, "rasterise", lambda text, size: np.full((size, size, 3), len(text) % 255, np.uint8)
    )


@pytest.mark.usefixtures("no_resvg")
def test_build_from_folders(packages, tmp_path):
    out = data.build(tmp_path / "out", packages=packages, held_out=0, echo=lambda line: None)
    assert sorted(p.name for p in out.iterdir()) == ["train.npz", "train_skintones.npz"]
    built = dataset.load(out)
    assert built.images.shape == (11, 64, 64, 3)
    assert set(built.labels) == {"red heart", "thumbs up"}
    assert set(built.styles) == {*data.ICONIFY, "fluent-3d"}
    assert set(built.hexcodes) == {"2764", "1F44D"}
    tones = dataset.load(out / "train_skintones.npz")
    assert set(tones.labels) == {"thumbs up: light skin tone"}
    assert set(tones.tags) == {("hand",)}
    assert len(built.select(["red heart"], ["noto", "fluent-3d"])) == 2


@pytest.mark.usefixtures("no_resvg")
def test_held_out_emoji_leave_in_all_styles(packages, tmp_path):
    everything = data.build(
        tmp_path / "all", packages=[packages], held_out=0.999, echo=lambda line: None
    )
    assert [p.name for p in everything.iterdir()] == ["held_out.npz"]
    assert data.part_of("1F44D", 0.5, 1) in ("train", "held_out")
    for seed in range(20):
        plain, tone = data.part_of("1F44D", 0.5, seed), data.part_of("1F44D-1F3FB", 0.5, seed)
        assert (plain == "held_out") == (tone == "held_out")


def test_transparent_pictures_are_put_on_white(packages):
    [(code, draw)] = data.webps([packages])
    image = draw(64)
    assert code == "2764"
    assert image.shape == (64, 64, 3)
    assert image[10, 10].tolist() == [0, 0, 255]
    assert image[60, 10].tolist() == [255, 255, 255]


def test_svg_takes_the_sets_size_where_the_icon_has_none():
    text = data.svg({"body": "<g/>", "width": 20}, {"height": 36})
    assert 'viewBox="0 0 20 36"' in text


def test_svg_is_rasterised(packages):
    pytest.importorskip("resvg_py")
    (code, draw), *_ = data.icons([packages], "noto")
    assert code == "1F44D"  # a square of 16 within 32
    assert draw(64)[31, 31].tolist() == [255, 0, 0]
    assert draw(64)[32, 32].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2764-fe0f", "2764"),
        ("1f44d_1f3fb", "1F44D-1F3FB"),
        ("a9", "00A9"),
        ("23-fe0f-20e3", "0023-20E3"),
    ],
)
def test_codes_have_one_spelling(given, expected):
    assert data.normal(given) == expected


def test_packages_that_are_missing(packages, tmp_path, monkeypatch):
    with pytest.raises(RequestError, match="expected a folder emojibase-data"):
        data.build(tmp_path / "out", packages=tmp_path / "nothing")
    (packages / "node_modules/emojibase-data/en/data.json").write_text("{")
    with pytest.raises(RequestError, match=r"data\.json: expected a JSON file"):
        data.build(tmp_path / "out", packages=packages)
    monkeypatch.setattr(data.shutil, "which", lambda name: None)
    with pytest.raises(UnavailableError, match="npm"):
        data.build(tmp_path / "out")


def test_a_rasteriser_that_is_missing_is_said_before_anything_is_fetched(tmp_path, monkeypatch):
    def called(*args, **options):
        raise AssertionError("npm runs")

    monkeypatch.setattr(data.shutil, "which", lambda name: "npm")
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(data.subprocess, "run", called)
    with pytest.raises(UnavailableError, match=r"package resvg-py: pip install 'pyengine\[train"):
        data.build(tmp_path / "out", echo=lambda line: None)


def test_npm_failing_is_said(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "no network")
    monkeypatch.setattr(data.shutil, "which", lambda name: "npm")
    monkeypatch.setattr(data.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(data.subprocess, "run", lambda *args, **options: failed)
    with pytest.raises(UnavailableError, match="given 1: no network"):
        data.build(tmp_path / "out", echo=lambda line: None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"held_out": 1.0}, "held_out: expected a share"),
        ({"size": 8}, "size: expected at least 16"),
    ],
)
def test_bad_arguments(change, message, tmp_path):
    with pytest.raises(RequestError, match=message):
        data.build(tmp_path, **change)


GOOD = '{"style": "noto", "label": "red heart"}'


@pytest.mark.parametrize(
    ("images", "captions", "message"),
    [
        (np.zeros((1, 4, 4, 3), np.float32), [GOOD], "images: expected uint8"),
        (np.zeros((1, 4, 4, 4), np.uint8), [GOOD], "images: expected uint8"),
        (np.zeros((2, 4, 4, 3), np.uint8), [GOOD], "captions: expected 2"),
        (np.zeros((0, 4, 4, 3), np.uint8), [], "at least one picture"),
        (np.zeros((1, 4, 4, 3), np.uint8), ["{"], r"captions\[0\]: expected a JSON object"),
        (np.zeros((1, 4, 4, 3), np.uint8), ["[]"], r"captions\[0\]\.style: expected a string"),
        (np.zeros((1, 4, 4, 3), np.uint8), ['{"style": "noto"}'], r"captions\[0\]\.label"),
    ],
)
def test_malformed_data(images, captions, message):
    with pytest.raises(dataset.DataError, match=message):
        dataset.from_arrays(images, captions)


def test_files_that_are_no_data(tmp_path):
    with pytest.raises(dataset.DataError, match=r"expected train\.npz in the folder"):
        dataset.load(tmp_path)
    (tmp_path / "train.npz").write_bytes(b"nothing")
    with pytest.raises(dataset.DataError, match="with images and captions"):
        dataset.load(tmp_path)


def test_saved_pictures_load(tmp_path, monkeypatch):
    images = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    dataset.save(tmp_path / "train.npz", images, [json.loads(GOOD)])
    monkeypatch.setenv("PYENGINE_DATA", str(tmp_path))
    loaded = dataset.load()
    assert np.array_equal(loaded.images, images)
    assert loaded.labels == ("red heart",)
    back = dataset.to_uint8(dataset.to_float(loaded.images))
    assert np.array_equal(back, images)
