"""Ways to damage a good checkpoint, and what pyengine has to say to each.

`CASES` maps a name to a Case: the function that damages a copy (a folder, or a single file), which
good checkpoint it starts from, and the error. A function may return another path to load.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load_file, save_file

from pyengine.errors import CheckpointError


class Case(NamedTuple):
    damage: Callable[[Path], Path | None]
    base: str
    error: type[CheckpointError]
    message: str  # a regular expression
    options: dict


CASES: dict[str, Case] = {}
UNET = "unet/diffusion_pytorch_model.safetensors"
SHARDS = "unet/diffusion_pytorch_model.safetensors.index.json"


def case(message, *, base="folder", error=CheckpointError, **options):
    def register(function):
        assert function.__name__ not in CASES
        CASES[function.__name__] = Case(function, base, error, message, options)
        return function

    return register


# --- helpers --------------------------------------------------------------------------------------


def edit_json(path: Path, change: Callable[[dict], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def read_raw(path: Path) -> tuple[dict, bytes]:
    data = path.read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + n]), data[8 + n :]


def write_raw(path: Path, header: dict | bytes, data: bytes) -> None:
    if isinstance(header, dict):
        header = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def edit_header(folder: Path, change: Callable[[dict], object]) -> None:
    header, data = read_raw(folder / UNET)
    change(header)
    write_raw(folder / UNET, header, data)


def edit_entry(folder: Path, change: Callable[[dict], object], name="conv_in.bias") -> None:
    edit_header(folder, lambda header: change(header[name]))


def edit_tensors(folder: Path, change: Callable[[dict], object], file=UNET) -> None:
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file)


def replace(path: Path, data: bytes) -> None:
    path.write_bytes(data)
