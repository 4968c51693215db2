"""Pictures in and out of files, and the settings that they carry."""

import dataclasses
import json
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin

from pyengine import images, metadata
from pyengine.errors import RequestError
from pyengine.metadata import Settings

FULL = Settings(
    prompt='a "red", heart: ❤\nsecond line',
    negative_prompt="blue, ugly",
    seed=7,
    steps=20,
    sampler="euler_ancestral",
    scheduler="euler_ancestral",
    guidance_scale=6.5,
    guidance_rescale=0.25,
    eta=0.5,
    clip_skip=1,
    height=64,
    width=72,
    strength=0.75,
    init_image="ab" * 32,
    mask="cd" * 32,
    first_seed=5,
    count=4,
    index=2,
    model="emoji",
    model_hash="0123456789abcdef" * 4,
    version="0.1.0",
)


def save(path, settings):
    picture = Image.new("RGB", (72, 64), "red")
    return images.save_atomically(picture, path, pnginfo=metadata.png_info(settings))


@pytest.mark.parametrize(
    "settings", [FULL, Settings(prompt="plain"), Settings(prompt="x" * 100_000, index=None)]
)
def test_settings_survive_the_file(tmp_path, settings):
    assert metadata.read(save(tmp_path / "a.png", settings)) == settings


def test_the_text_that_other_tools_read(tmp_path):
    path = save(tmp_path / "a.png", FULL)
    text = Image.open(path).info["parameters"]
    assert text == (
        'a "red", heart: ❤\nsecond line\n'
        "Negative prompt: blue, ugly\n"
        "Steps: 20, Sampler: Euler a, CFG scale: 6.5, Seed: 7, Size: 72x64,"
        " Model hash: 0123456789, Model: emoji, Denoising strength: 0.75, Clip skip: 2,"
        " Eta: 0.5, CFG Rescale: 0.25, Version: pyengine 0.1.0"
    )


def test_a_model_name_with_separators_is_quoted():
    assert 'Model: "a, b: c"' in Settings(prompt="x", model="a, b: c").to_a1111()


def test_every_sampler_has_a_name_elsewhere():
    from pyengine.schedules import SAMPLER_NAMES

    assert set(metadata.A1111_SAMPLERS) == set(SAMPLER_NAMES)


# --- settings of a stranger's file ----------------------------------------------------------------

BAD_FIELDS = {
    "prompt": [None, 3, ["a"], "x" * 100_001],
    "negative_prompt": [3, "x" * 100_001],
    "seed": [-1, "1", 1.5, 2**63, True],
    "steps": [0, 10**9, "5", None],
    "guidance_scale": [-1, 1e9, "7", None],
    "guidance_rescale": [2],
    "eta": [-0.1],
    "clip_skip": [-1, 1000],
    "height": [0, 1 << 20],
    "width": ["64"],
    "strength": [1.1],
    "first_seed": [-3],
    "count": [0, 10**6],
    "index": [4, -1],
    "scheduler": [3],
    "model": [4, "x" * 300],
    "model_hash": [{}],
    "device": [1],
    "format": [2, None, "1"],
    "surprise": [1],
}


@pytest.mark.parametrize(
    ("field", "value"),
    [(f, v) for f, values in BAD_FIELDS.items() for v in values],
    ids=lambda v: str(v)[:20],
)
def test_every_field_is_checked(tmp_path, field, value):
    data = {"format": 1, **dataclasses.asdict(FULL), field: value}
    with pytest.raises(RequestError, match=field):
        metadata.read(with_chunk(tmp_path / "a.png", json.dumps(data)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        "[]",
        "3",
        "{",
        '{"format": NaN}',
        '{"format": 1, "format": 1}',
        "[" * 100_000,
        '{"format": 1}',
        '{"a": ' * 60 + "1" + "}" * 60,
    ],
    ids=lambda t: t[:12],
)
def test_a_chunk_that_is_no_settings(tmp_path, text):
    with pytest.raises(RequestError, match="from"):
        metadata.read(with_chunk(tmp_path / "a.png", text))


def with_chunk(path, text, name="pyengine"):
    info = PngImagePlugin.PngInfo()
    info.add_text(name, text)
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    return path


def test_a_picture_of_another_program(tmp_path):
    with pytest.raises(RequestError, match="another program"):
        metadata.read(with_chunk(tmp_path / "a.png", "a cat\nSteps: 20", "parameters"))
    Image.new("RGB", (8, 8)).save(tmp_path / "b.jpg")
    with pytest.raises(RequestError, match="no pyengine settings"):
        metadata.read(tmp_path / "b.jpg")


# --- picture files --------------------------------------------------------------------------------


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *more: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + png_chunk(b"IEND", b"")


BAD_FILES = {
    "empty": b"",
    "text": b"not a picture",
    "a bomb": png(60_000, 60_000, png_chunk(b"IDAT", zlib.compress(bytes(1000)))),
    "a long thin bomb": png(1 << 20, 4, png_chunk(b"IDAT", zlib.compress(bytes(100)))),
    "no pixels": png(64, 64),
    "cut off": png(64, 64, png_chunk(b"IDAT", zlib.compress(bytes(64 * 193))[:20])),
    "a wrong checksum": png(64, 64).replace(b"IHDR", b"IHDX"),
    "no size": png(0, 64),
    "a text bomb": png(8, 8, png_chunk(b"zTXt", b"pyengine\0\0" + zlib.compress(bytes(1 << 27)))),
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n",
}


@pytest.mark.parametrize("name", BAD_FILES)
@pytest.mark.parametrize("reader", [images.load_image, images.load_mask, metadata.read])
def test_damaged_pictures(tmp_path, name, reader):
    path = tmp_path / "bad.png"
    path.write_bytes(BAD_FILES[name])
    with pytest.raises(RequestError):
        reader(path)


@pytest.mark.parametrize("kind", ["missing", "folder", "fifo"])
def test_what_is_no_file(tmp_path, kind):
    path = tmp_path / "thing"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(RequestError, match="no such file"):
        images.load_image(path)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_every_mode_becomes_rgb(mode):
    grey = Image.fromarray(np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    elif mode == "F":
        picture = Image.fromarray(np.asarray(grey).astype(np.float32) * 257)
    else:
        picture = grey.convert(mode)
    rgb = images.to_rgb(picture, "image")
    assert rgb.mode == "RGB"
    if mode != "1":
        assert np.abs(np.asarray(rgb)[..., 0].astype(int) - np.asarray(grey)).max() <= 3


def test_transparent_parts_become_white():
    picture = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert images.to_rgb(picture, "image").getpixel((0, 0)) == (255, 255, 255)


def test_a_photo_is_turned_upright(tmp_path):
    picture = Image.new("RGB", (6, 4))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(tmp_path / "a.jpg", exif=exif)
    assert images.load_image(tmp_path / "a.jpg").size == (4, 6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_every_orientation(tmp_path, orientation, suffix):
    """As ImageOps.exif_transpose turns it; the result no longer says that it is to be turned."""
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = pixels[1, :3] = 255
    picture, exif = Image.fromarray(np.kron(pixels, np.ones((8, 8, 1), np.uint8))), Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    picture.save(path, exif=exif)
    turned = images.load_image(path)
    with Image.open(path) as image:
        assert turned.tobytes() == ImageOps.exif_transpose(image).convert("RGB").tobytes()
    assert turned.getexif().get(0x0112, 1) == 1
    assert images.load_mask(path).size == turned.size


BAD_EXIF = {
    "nothing": b"",
    "a word": b"garbage",
    "no directory": b"II*\0",
    "far away": b"II*\0\xff\xff\xff\x7f",
    "MM, far away": b"MM\0*\x7f\xff\xff\xff",
    "many entries": b"MM\0*\0\0\0\x08\xff\xff" + bytes(12),
    "a cut entry": b"MM\0*\0\0\0\x08\0\1\1\x12\0\3",
    "a long value": b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\xff\xff\xff\xff\0\6\0\0",
    "an odd type": b"MM\0*\0\0\0\x08\0\1\1\x12\0\x63\0\0\0\1\0\6\0\0\0\0\0\0",
    "a text": b"MM\0*\0\0\0\x08\0\1\1\x12\0\2\0\0\0\4abc\0\0\0\0\0",
    "no orientation": b"MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\x63\0\0\0\0\0\0",
    "a circle": b"MM\0*\0\0\0\x08\0\1\x87\x69\0\4\0\0\0\1\0\0\0\x08\0\0\0\x08",
    "text that is none": bytes(range(256)),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", BAD_EXIF)
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_malformed_exif_leaves_the_picture(tmp_path, name, where):
    pixels = png_chunk(b"IDAT", zlib.compress((b"\0" + b"\1\2\3" * 6) * 4))
    exif = png_chunk(b"eXIf", BAD_EXIF[name])
    path = tmp_path / "a.png"
    path.write_bytes(png(6, 4, *((exif, pixels) if where == "before" else (pixels, exif))))
    for load in (images.load_image, images.load_mask):
        assert load(path).size == (6, 4)
    assert images.load_image(path).getpixel((5, 3)) == (1, 2, 3)
    with (tmp_path / "a.jpg").open("wb") as f:
        Image.new("RGB", (6, 4), "red").save(f, "JPEG", exif=b"Exif\0\0" + BAD_EXIF[name])
    assert images.load_image(tmp_path / "a.jpg").size == (6, 4)


def test_a_failed_save_leaves_the_old_picture(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", FULL)
    before = path.read_bytes()

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images.os, "replace", fail)
    with pytest.raises(RequestError, match="No space left"):
        save(path, Settings(prompt="new"))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.png"]


def test_saving_makes_the_folder_and_ordinary_permissions(tmp_path):
    path = save(tmp_path / "deep" / "er" / "a.png", FULL)
    assert path.stat().st_mode & 0o777 == 0o666 & ~images.current_umask()


def test_saving_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RequestError, match="output"):
        save(tmp_path / "file" / "a.png", FULL)
    with pytest.raises(RequestError, match="output"):
        save(tmp_path / "a.unknown", FULL)


def test_a_grid():
    sheet = images.grid([Image.new("RGB", (8, 6), c) for c in ("red", "green", "blue")])
    assert sheet.size == (18, 14)
    assert sheet.getpixel((12, 2)) == (0, 128, 0)
    assert sheet.getpixel((2, 10)) == (0, 0, 255)
    assert sheet.getpixel((12, 10)) == (255, 255, 255)
