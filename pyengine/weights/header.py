"""The header of a safetensors file, read by a parser that believes nothing in it.

Format (github.com/huggingface/safetensors): an unsigned 64-bit little-endian N, N bytes of JSON
{name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {str: str}}, then the data.
Begin and end count from the end of the header; the tensors fill the data without gaps.
"""

import io
import os
from typing import NamedTuple

from ..errors import CheckpointError
from .files import open_regular, read_exactly, refuse_pickle
from .jsonio import MAX_BYTES, parse_object
from .text import show

ITEM_SIZES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
# Types that only weights in 8 bits and leftovers have; see STORED_DTYPES in source.py.
STORED_SIZES = {"F8_E4M3": 1, "F8_E5M2": 1, "U64": 8, "U32": 4, "U16": 2, "C64": 8}
_SIZES = {**ITEM_SIZES, **STORED_SIZES}
# The format's other types, which no tensor of a model that we run has.
NOT_READ = {
    "F8_E8M0": "scales of blocks",
    "F8_E4M3FNUZ": "AMD's 8-bit floats",
    "F8_E5M2FNUZ": "AMD's 8-bit floats",
    "F6_E2M3": "6-bit floats",
    "F6_E3M2": "6-bit floats",
    "F4": "4-bit floats",
}
MAX_RANK = 8
MAX_VALUES = 100_000  # seven a tensor: SDXL's 2,600 take 18,000
MAX_NAME = 512


class Entry(NamedTuple):
    """One tensor: dtype as in _SIZES, shape, and its bytes [begin, end) in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class SafetensorsFile:
    """An open safetensors file whose header has been checked.

    `entries`: {tensor name: Entry}. `metadata`: {str: str}. `path`, `size`: of the file.
    Raises CheckpointError from the constructor for anything that is not a sound file; nothing is
    read but the header, and at most 4 MB of it.
    """

    def __init__(self, path: str | os.PathLike[str], roots: tuple[str, ...] | None = None):
        refuse_pickle(path)
        self.path = os.fspath(path)
        self.file, self.size = open_regular(path, roots)
        try:
            header = _read_header(self.file, self.size, self.path)
            self.header_bytes = header
            self.metadata, self.entries = parse_header(header, self.size, self.path)
        except BaseException:
            self.file.close()
            raise

    def close(self) -> None:
        self.file.close()

    def read_into(self, name: str, buffer: memoryview, offset: int = 0) -> None:
        """Fills `buffer` with the tensor's bytes (little endian) from its byte `offset` on."""
        entry = self.entries[name]
        begin = entry.begin + offset
        assert begin + len(buffer) <= entry.end
        read_exactly(self.file, buffer, begin, f"{self.path}: tensor {show(name)}")

    def tensor_bytes(self, name: str) -> bytes:
        """All bytes of a tensor."""
        entry = self.entries[name]
        return bytes(self.read_bytes(entry.begin, entry.end))

    def read_bytes(self, begin: int, end: int) -> bytearray:
        """Bytes [begin, end) of the file."""
        data = bytearray(end - begin)
        read_exactly(self.file, memoryview(data), begin, self.path)
        return data


def _read_header(file: io.FileIO, size: int, where: str) -> bytes:
    if size < 10:
        raise CheckpointError(f"{where}: {size} bytes, too short for a safetensors file")
    buffer = bytearray(9)
    read_exactly(file, memoryview(buffer), 0, where)
    start = bytes(buffer)
    length = int.from_bytes(start[:8], "little")
    if start[:2] in (b"PK", b"\x80\x02") or start[:7] == b"version":
        raise CheckpointError(f"{where}: not a safetensors file (it begins like a pickle or zip)")
    if length > size - 8:
        raise CheckpointError(
            f"{where}: truncated, or no safetensors file: the header should take {length} bytes,"
            f" {size - 8} follow"
        )
    if length > MAX_BYTES:
        raise CheckpointError(
            f"{where}: the header takes {length} bytes, at most {MAX_BYTES} are read"
        )
    if start[8:9] != b"{":
        raise CheckpointError(f"{where}: not a safetensors file: its header is no JSON object")
    header = bytearray(length)
    read_exactly(file, memoryview(header), 8, where)
    return bytes(header)


def parse_header(header: bytes, size: int, where: str) -> tuple[dict[str, str], dict[str, Entry]]:
    """(metadata, entries) of the header JSON of a file of `size` bytes.

    Raises CheckpointError unless every tensor has a known dtype, a sane shape and as many bytes as
    these ask for, and the tensors fill the file from the header's end to its own without overlap.
    """
    table = parse_object(
        header,
        f"{where}: header",
        max_depth=8,
        max_values=MAX_VALUES,
        error=CheckpointError,
    )
    metadata = table.pop("__metadata__", None)
    if metadata is None:  # null, as some converters write where there is none
        metadata = {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{where}: __metadata__ should map strings to strings")
    data_start = 8 + len(header)
    entries = {}
    for name, fields in table.items():
        entries[name] = _parse_entry(name, fields, data_start, size, where)
    _check_tiling(entries, data_start, size, where)
    return metadata, entries


def _parse_entry(name: str, fields: object, data_start: int, size: int, where: str) -> Entry:
    at = f"{where}: tensor {show(name)}"
    if not name or len(name) > MAX_NAME:
        raise CheckpointError(f"{at}: a name has 1 to {MAX_NAME} characters")
    if not isinstance(fields, dict) or fields.keys() != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{at}: expected dtype, shape and data_offsets, found {show(fields)}")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _SIZES:
        what = f" ({NOT_READ[dtype]})" if isinstance(dtype, str) and dtype in NOT_READ else ""
        raise CheckpointError(f"{at}: dtype {show(dtype)}{what} is none of {', '.join(_SIZES)}")
    if not _is_sizes(shape) or len(shape) > MAX_RANK:
        raise CheckpointError(
            f"{at}: shape {show(shape)} should be at most {MAX_RANK} whole numbers from 0"
        )
    if not _is_sizes(offsets) or len(offsets) != 2:
        raise CheckpointError(f"{at}: data_offsets {show(offsets)} should be two numbers from 0")
    begin, end = offsets
    available = size - data_start
    if begin > end or end > available:
        raise CheckpointError(
            f"{at}: data_offsets {show(offsets)} lie outside the {available} bytes of data;"
            " the file is truncated or its header is wrong"
        )
    # Python's integers do not overflow, so that an absurd shape cannot wrap around to fit.
    expected = _SIZES[dtype]
    for n in shape:
        expected *= n
    if expected != end - begin:
        raise CheckpointError(
            f"{at}: {dtype} {show(shape)} takes {expected} bytes, data_offsets give {end - begin}"
        )
    # A dimension of 0 makes any other one fit in no bytes at all.
    if expected == 0 and any(n >= 1 << 31 for n in shape):
        raise CheckpointError(f"{at}: absurd shape {show(shape)}")
    return Entry(dtype, tuple(shape), data_start + begin, data_start + end)


def _is_sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _check_tiling(entries: dict[str, Entry], data_start: int, size: int, where: str) -> None:
    at, before = data_start, "the header"
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.begin != at:
            what = "overlaps" if entry.begin < at else f"leaves {entry.begin - at} bytes after"
            raise CheckpointError(f"{where}: tensor {show(name)} {what} {before}")
        at, before = entry.end, show(name)
    if at != size:
        raise CheckpointError(f"{where}: {size - at} bytes belong to no tensor")
