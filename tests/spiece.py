"""Writing sentencepiece's files: a protocol buffer of pieces, and a small character map."""

from __future__ import annotations

import struct
from pathlib import Path

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4

WORDS = ("a", "the", "cat", "dog", "red", "of", "photo", "in", "with", "and", "ing", "ed", "un")
PIECES = [
    ("<pad>", 0.0, CONTROL),
    ("</s>", 0.0, CONTROL),
    ("<unk>", 0.0, UNKNOWN),
    ("\u2581", -2.5, NORMAL),
    *((f"\u2581{word}", -3.0 - i / 8, NORMAL) for i, word in enumerate(WORDS)),
    *((word, -4.0 - i / 8, NORMAL) for i, word in enumerate(WORDS) if len(word) > 1),
    *((chr(c), -6.0 - i / 16, NORMAL) for i, c in enumerate(range(97, 123)) if chr(c) != "q"),
    ("\u00e9", -7.5, NORMAL),
    (".", -5.0, NORMAL),
    ("<mark>", 0.0, USER_DEFINED),
]


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def field(number: int, value: bytes | float | int) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def piece(text: str | bytes, score: float = 0.0, kind: int = NORMAL) -> bytes:
    data = text if isinstance(text, bytes) else text.encode()
    return field(1, field(1, data) + field(2, score) + field(3, kind))


def lowering(letters: str = "ABC") -> bytes:
    """A character map that replaces these capitals by their small letters and a full stop."""
    units = [0] * 512
    units[0] = 256 << 10
    texts = b""
    for letter in letters:
        node = 256 ^ ord(letter)
        units[node] = ord(letter) | 1 << 8 | 128 << 10
        units[node ^ 128] = 1 << 31 | len(texts)
        texts += letter.lower().encode() + b".\0"
    return struct.pack("<I", 4 * len(units)) + struct.pack(f"<{len(units)}I", *units) + texts


def model(pieces=PIECES, *, charsmap: bytes = b"", trainer: bytes = b"", spaces: int = 1) -> bytes:
    normaliser = field(1, b"identity") + field(3, 1) + field(4, spaces) + field(5, 1)
    if charsmap:
        normaliser += field(2, charsmap)
    trained = field(3, 1) + field(4, 2000) + trainer
    return b"".join(piece(*p) for p in pieces) + field(2, trained) + field(3, normaliser)


def write(folder: Path, **kwargs) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(model(**kwargs))
    return folder


def files(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.iterdir()}
