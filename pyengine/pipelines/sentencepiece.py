"""A strict reader of sentencepiece's model files (spiece.model) and of their character maps.

Kudo & Richardson 2018, arXiv:1808.06226. The file is a protocol buffer, ModelProto of
sentencepiece_model.proto; what is read of it here is a list of pieces and three settings, without a
protobuf library. What a unigram model computes from them is the `tokenizers` library's.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ConfigError
from ..tokenizer import MAX_IDS
from ..weights.files import read_small
from ..weights.text import show

#: T5's takes 0.8 MB.
MAX_BYTES = 16 << 20
#: Bytes of one piece.
MAX_PIECE = 4096

# Types of fields on the wire.
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
# ModelProto's fields, and its messages'.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _BYTE_FALLBACK = 3, 35
_CHARSMAP, _PREFIX, _SPACES, _ESCAPED = 2, 3, 4, 5
_UNIGRAM = 1
# Types of pieces.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


@dataclass(frozen=True)
class SentencePieces:
    """A unigram model: pieces and their log-probabilities by id.

    types: NORMAL, UNKNOWN... of each; exactly one is UNKNOWN. charsmap: what characters are
    replaced by before, as `tokenizers.normalizers.Precompiled` reads it; empty: nothing is.
    """

    pieces: tuple[tuple[str, float], ...]
    types: tuple[int, ...]
    charsmap: bytes

    @property
    def unknown(self) -> int:
        """The id of what no piece matches."""
        return self.types.index(UNKNOWN)


def read_sentencepieces(path: Path) -> SentencePieces:
    """The unigram model of a spiece.model.

    Raises CheckpointError for a file that cannot be read, ConfigError for what is no unigram model,
    is damaged, or normalises in another way than T5's: a space before the text, runs of spaces as
    one, spaces as U+2581.
    """
    data = read_small(path, MAX_BYTES)
    where = str(path)
    pieces: list[tuple[str, float]] = []
    types: list[int] = []
    charsmap = b""
    for number, value in _fields(data, where):
        if number == _PIECES:
            piece, score, kind = _piece(_bytes(value, where, "pieces"), where, len(pieces))
            pieces.append((piece, score))
            types.append(kind)
            if len(pieces) > MAX_IDS:
                raise ConfigError(f"{where}: pieces: expected at most {MAX_IDS}, found more")
        elif number == _TRAINER:
            _check_trainer(_bytes(value, where, "trainer_spec"), where)
        elif number == _NORMALIZER:
            charsmap = _charsmap(_bytes(value, where, "normalizer_spec"), where)
    if types.count(UNKNOWN) != 1:
        raise ConfigError(
            f"{where}: pieces: expected one of type UNKNOWN among them, found"
            f" {types.count(UNKNOWN)} of {len(pieces)}"
        )
    if len({piece for piece, _ in pieces}) != len(pieces):
        raise ConfigError(f"{where}: pieces: expected no piece twice")
    if charsmap:
        check_charsmap(charsmap, f"{where}: normalizer_spec.precompiled_charsmap")
    return SentencePieces(tuple(pieces), tuple(types), charsmap)


def _piece(data: bytes, where: str, index: int) -> tuple[str, float, int]:
    where = f"{where}: pieces[{index}]"
    piece, score, kind = b"", 0.0, NORMAL
    for number, value in _fields(data, where):
        if number == _PIECE:
            piece = _bytes(value, where, "piece")
        elif number == _SCORE:
            if not isinstance(value, float):
                raise ConfigError(f"{where}: score: expected a 32-bit number")
            score = value
        elif number == _TYPE:
            kind = _whole(value, where, "type")
    if not 0 < len(piece) <= MAX_PIECE:
        raise ConfigError(f"{where}: piece: expected 1 to {MAX_PIECE} bytes, found {len(piece)}")
    try:
        text = piece.decode("utf-8")
    except UnicodeDecodeError as e:
        raise ConfigError(f"{where}: piece: not UTF-8 at byte {e.start}") from None
    if not NORMAL <= kind <= UNUSED:
        found = "BYTE, of a model that falls back to bytes," if kind == BYTE else show(kind)
        raise ConfigError(f"{where}: type: expected NORMAL to UNUSED (1 to 5), found {found}")
    if not -1e9 <= score <= 1e9:
        raise ConfigError(f"{where}: score: expected a finite number, found {score}")
    return text, score, kind


def _check_trainer(data: bytes, where: str) -> None:
    where = f"{where}: trainer_spec"
    for number, value in _fields(data, where):
        if number == _MODEL_TYPE and value != _UNIGRAM:
            raise ConfigError(f"{where}: model_type: expected 1 (UNIGRAM), found {show(value)}")
        if number == _BYTE_FALLBACK and value != 0:
            raise ConfigError(f"{where}: byte_fallback: expected false, found true")


def _charsmap(data: bytes, where: str) -> bytes:
    where, charsmap = f"{where}: normalizer_spec", b""
    names = {
        _PREFIX: "add_dummy_prefix",
        _SPACES: "remove_extra_whitespaces",
        _ESCAPED: "escape_whitespaces",
    }
    for number, value in _fields(data, where):
        if number == _CHARSMAP:
            charsmap = _bytes(value, where, "precompiled_charsmap")
        elif number in names and value != 1:
            raise ConfigError(f"{where}: {names[number]}: expected true, found {show(value)}")
    return charsmap


# --- the wire -------------------------------------------------------------------------------------


def _fields(data: bytes, where: str) -> Iterator[tuple[int, int | float | bytes]]:
    """(number, value) of every field; each costs a byte at least, so a message ends."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at, where)
        number, wire = key >> 3, key & 7
        if not number:
            raise ConfigError(f"{where}: no protocol buffer: field 0 at byte {at}")
        value: int | float | bytes
        if wire == _VARINT:
            value, at = _varint(data, at, where)
        else:
            if wire == _BYTES:
                size, at = _varint(data, at, where)
            elif wire in (_FOUR, _EIGHT):
                size = 4 if wire == _FOUR else 8
            else:
                raise ConfigError(f"{where}: no protocol buffer: type {wire} at byte {at}")
            if size > len(data) - at:
                raise ConfigError(
                    f"{where}: field {number}: expected {size} bytes, found {len(data) - at}"
                )
            value, at = data[at : at + size], at + size
            if wire == _FOUR:
                value = float(struct.unpack("<f", value)[0])
        yield number, value


def _varint(data: bytes, at: int, where: str) -> tuple[int, int]:
    """(the number that begins at byte `at`, the byte after it)."""
    value = 0
    for count, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * count
        if byte < 128:
            return value, at + count + 1
    raise ConfigError(f"{where}: no protocol buffer: a number at byte {at} does not end")


def _bytes(value: int | float | bytes, where: str, name: str) -> bytes:
    if not isinstance(value, bytes):
        raise ConfigError(f"{where}: {name}: expected bytes, found a number")
    return value


def _whole(value: int | float | bytes, where: str, name: str) -> int:
    if not isinstance(value, int):
        raise ConfigError(f"{where}: {name}: expected a whole number, found another field")
    return value


# --- character maps -------------------------------------------------------------------------------


def check_charsmap(data: bytes, where: str) -> None:
    """Raises ConfigError unless `tokenizers` can follow a precompiled map without leaving it.

    A map is the size of a trie, the trie (darts-clone's double array, one uint32 a unit), and texts
    that end with a zero byte. From unit i, whose label is a byte, the next by byte b is unit
    i ^ offset ^ b; a text begins at the value of unit i ^ offset where the unit has a leaf. The
    library trusts all of them, and ends the process's thread where one leads outside.
    """
    size = int.from_bytes(data[:4], "little")
    if len(data) < 4 or size % 4 or not 4 <= size <= len(data) - 4:
        raise ConfigError(
            f"{where}: expected a trie of 4 to {max(len(data) - 4, 4)} bytes, found {size}"
        )
    try:
        data[4 + size :].decode("utf-8")
    except UnicodeDecodeError as e:
        raise ConfigError(f"{where}: texts: not UTF-8 at byte {e.start}") from None
    units = np.frombuffer(data, "<u4", size // 4, 4).astype(np.int64)
    inner = np.flatnonzero(units >> 31 == 0)
    unit = units[inner]
    target = inner ^ ((unit >> 10) << ((unit & 512) >> 6))
    if (target | 255).max(initial=0) >= len(units):
        raise ConfigError(
            f"{where}: trie: expected units that lead to 0 to {len(units) - 1}, found"
            f" {int((target | 255).max())}"
        )
    begins = units[target[(unit >> 8) & 1 == 1]] & 0x7FFFFFFF
    texts = np.frombuffer(data, np.uint8, offset=4 + size)
    inside = texts[begins[begins < len(texts)]]
    if begins.max(initial=0) > len(texts) or ((inside & 0xC0) == 0x80).any():
        raise ConfigError(
            f"{where}: trie: expected values that begin a character of {len(texts)} bytes of text"
        )
