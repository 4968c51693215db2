"""What the numbers of picture files mean: transparency by key or layer, modes, depths."""

import struct
import zlib

import pytest
import torch
from PIL import Image
from pixel_cases import HEIGHT, LAYERS, PAINTED, WANTED, WIDTH, as_mode, grey, mask_of, unit_of

from pyengine import images

# What is not expected to warn must not.
pytestmark = pytest.mark.filterwarnings("error")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(path, depth, colour, rows, *more):
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", head), *more, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def packed(left, right, bits):
    values = [left] * (WIDTH // 2) + [right] * (WIDTH // 2)
    return int("".join(f"{v:0{bits}b}" for v in values), 2).to_bytes(WIDTH * bits // 8, "big")


def key_files(folder):
    """White on the left, on the right a white that a tRNS chunk makes transparent: where possible
    another white, which is next to it.
    """
    white = 0xFFFF
    wide = struct.pack(">3H", white, white, white), struct.pack(">3H", white, white, 0xFE34)
    return {
        **{
            f"{bits} bits": png(
                folder / f"{bits}.png",
                bits,
                0,
                [packed(2**bits - 1, 2**bits - 2, bits)] * HEIGHT,
                chunk(b"tRNS", struct.pack(">H", 2**bits - 2)),
            )
            for bits in (1, 2, 4, 8, 16)
        },
        "RGB": png(
            folder / "rgb.png",
            8,
            2,
            [b"\xff\xff\xff" * 8 + b"\xff\xff\xfe" * 8] * HEIGHT,
            chunk(b"tRNS", struct.pack(">3H", 255, 255, 254)),
        ),
        "RGB of 16 bits": png(
            folder / "rgb16.png",
            16,
            2,
            [wide[0] * 8 + wide[1] * 8] * HEIGHT,
            chunk(b"tRNS", wide[1]),
        ),
        "palette": png(
            folder / "p.png",
            8,
            3,
            [b"\0" * 8 + b"\1" * 8] * HEIGHT,
            chunk(b"PLTE", b"\xff" * 6),
            chunk(b"tRNS", b"\xff\0"),
        ),
    }


KEYS = ["1 bits", "2 bits", "4 bits", "8 bits", "16 bits", "RGB", "RGB of 16 bits", "palette"]


@pytest.mark.parametrize("name", KEYS)
def test_keys_in_files(tmp_path, name):
    path = key_files(tmp_path)[name]
    assert torch.equal(mask_of(images.load_mask(path)), WANTED)
    assert unit_of(images.load_image(path)).min() == 1
    assert torch.equal(mask_of(Image.open(path)), WANTED)
    assert unit_of(Image.open(path)).min() == 1


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [("png", "RGBA"), ("png", "LA"), ("png", "P"), ("gif", "P"), ("webp", "RGBA"),
     ("tiff", "RGBA"), ("tiff", "LA")],
)  # fmt: skip
def test_layers_in_files(tmp_path, suffix, mode):
    path = tmp_path / f"mask.{suffix}"
    name = "P index" if mode == "P" else mode
    LAYERS[name].save(path, lossless=True) if suffix == "webp" else LAYERS[name].save(path)
    assert torch.equal(mask_of(images.load_mask(path)), WANTED)
    assert unit_of(images.load_image(path)).min() > 0.98


@pytest.mark.parametrize(
    ("suffix", "mode"),
    [("png", "I;16"), ("png", "1"), ("tiff", "I;16"), ("tiff", "I"), ("tiff", "F"),
     ("tiff", "CMYK"), ("tiff", "LAB"), ("tiff", "YCbCr"), ("jpg", "CMYK"), ("ppm", "L")],
)  # fmt: skip
def test_opaque_files(tmp_path, suffix, mode):
    path = tmp_path / f"mask.{suffix}"
    as_mode(grey(PAINTED), mode).save(path)
    assert torch.equal(mask_of(images.load_mask(path)), WANTED)
    assert (unit_of(images.load_image(path))[0, 0] - WANTED[0, 0]).abs().max() < 0.1
