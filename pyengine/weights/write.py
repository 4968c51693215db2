"""Tensors out: a safetensors file, written tensor by tensor: one is in memory at a time."""

import json
import os
from pathlib import Path

import torch

from ..errors import CheckpointError
from .source import TORCH_DTYPES, MappedSource, TensorSource
from .text import show

_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_ALIGNMENT = 8


def write_tensors(
    path: str | os.PathLike[str],
    source: TensorSource | MappedSource,
    dtype: torch.dtype | None = None,
) -> None:
    """All tensors of `source` as a new file at `path`, under its names.

    dtype: what floating-point tensors that are stored in more bits are rounded to; None: as stored.
    Raises FileExistsError, and CheckpointError for a dtype that the format has not.
    """
    kinds = {name: _kind(source, name, dtype) for name in source}
    # Wide ones first, so that each begins at a multiple of its size.
    names = sorted(kinds, key=lambda name: (-kinds[name].itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        shape = source.spec(name)[1]
        begin, end = end, end + kinds[name].itemsize * torch.Size(shape).numel()
        header[name] = {
            "dtype": _NAMES[kinds[name]],
            "shape": list(shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with open(Path(path), "xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            tensor = source.read(name, kinds[name]).reshape(-1)
            if len(tensor):
                file.write(tensor.view(torch.uint8).numpy().data)


def _kind(source: TensorSource | MappedSource, name: str, dtype: torch.dtype | None) -> torch.dtype:
    stored = source.spec(name)[0]
    narrower = dtype is not None and stored.is_floating_point and dtype.itemsize < stored.itemsize
    kind = dtype if narrower and dtype is not None else stored
    if kind not in _NAMES:
        raise CheckpointError(f"{source.where}: tensor {show(name)}: {kind} is not written")
    return kind
