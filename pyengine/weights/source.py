"""Tensors by name, from one or several safetensors files whose headers have been checked."""

import math
import os
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch

from ..errors import CheckpointError
from .files import CONVERT, allowed_roots, check_inside, is_pickle_name, list_folder
from .header import SafetensorsFile
from .jsonio import load_json
from .quantised import (
    MAX_FORMAT,
    Companions,
    check_finite,
    check_format,
    find_companions,
    scaled,
)
from .text import listing, show

TORCH_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
#: Types that are read and converted like these; torch itself computes little with them.
STORED_DTYPES = {
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "C64": torch.complex64,
}  # fmt: skip
_DTYPES = {**TORCH_DTYPES, **STORED_DTYPES}
#: What files call each dtype.
DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
MAX_SHARDS = 256
#: Of a MappedSource: (name in its source, shape as read, function applied to the tensor).
Entry = tuple[str, tuple[int, ...] | None, Callable[[torch.Tensor], torch.Tensor] | None]
PIECE = 1 << 20  # elements converted at a time
BASENAMES = ("diffusion_pytorch_model", "model")


class TensorSource:
    """A view of checked safetensors files: names, dtypes and shapes now, bytes when asked.

    Built by `open_weights` or `Checkpoint.component`. No tensor is in memory until `read`.
    `where` names it in messages; `files` are the files, in a fixed order. Weights that come with a
    scale (see quantised.py) are multiplied by it as they are read; the scales are not listed.
    """

    def __init__(self, files: Iterable[SafetensorsFile], where: str):
        self.files = tuple(files)
        self.where = where
        self._home: dict[str, SafetensorsFile] = {}
        for file in self.files:
            twice = self._home.keys() & file.entries.keys()
            if twice:
                self.close()
                raise CheckpointError(
                    f"{where}: {len(twice)} tensors come in two files:"
                    f" {listing(map(show, sorted(twice)))}"
                )
            self._home.update(dict.fromkeys(file.entries, file))
        weakref.finalize(self, _close_all, self.files)
        self._companions = self._find_companions()
        self._names = sorted(self._home.keys() - self._companions.unread)

    def _find_companions(self) -> Companions:
        specs = {name: self._as_stored(name) for name in self._home}
        try:
            found = find_companions(specs, self.where)
            for name in found.formats:
                dtype, shape = specs[name]
                if dtype != torch.uint8 or math.prod(shape) > MAX_FORMAT:
                    raise CheckpointError(
                        f"{self.where}: {show(name)} is {dtype} {list(shape)}, expected at most"
                        f" {MAX_FORMAT} bytes"
                    )
                check_format(self._home[name].tensor_bytes(name), name, self.where)
        except CheckpointError:
            self.close()
            raise
        return found

    def close(self) -> None:
        """Closes the files. Tensors that were read stay valid: they own their memory."""
        _close_all(self.files)

    def __enter__(self) -> "TensorSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __contains__(self, name: object) -> bool:
        return name in self._home and name not in self._companions.unread

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def keys(self) -> list[str]:
        """The tensors' names, sorted."""
        return list(self._names)

    def spec(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """(dtype, shape) as stored; float32 for a weight that comes with a scale."""
        dtype, shape = self._as_stored(name)
        return torch.float32 if name in self._companions.scales else dtype, shape

    def _as_stored(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        entry = self._home[name].entries[name]
        return _DTYPES[entry.dtype], entry.shape

    def nbytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(e.end - e.begin for f in self.files for e in f.entries.values())

    def read(
        self, name: str, dtype: torch.dtype | None = None, into: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The tensor, contiguous, in CPU memory of its own; dtype as `spec` says, or `dtype`.

        into: bytes [n] uint8, at least as many as it takes, to read it into instead.

        Converted piece by piece, so that it is never in memory twice.
        Raises CheckpointError if the file has become shorter since it was opened. (Plain reads,
        not a memory map: a map of a file that shrinks kills the process with SIGBUS.)
        """
        stored, shape = self._as_stored(name)
        file = self._home[name]
        scale = self._scale(name)
        dtype = dtype or self.spec(name)[0]
        if into is None:
            tensor = torch.empty(shape, dtype=dtype)
        else:
            count = torch.Size(shape).numel() * dtype.itemsize
            tensor = into[:count].view(dtype).view(shape)
        flat = tensor.reshape(-1)
        if tensor.dtype == stored and scale is None:
            file.read_into(name, _bytes_of(flat))
            return tensor
        piece = torch.empty(min(PIECE, flat.numel()), dtype=stored)
        for begin in range(0, flat.numel(), PIECE):
            part = piece[: flat.numel() - begin]
            file.read_into(name, _bytes_of(part), begin * stored.itemsize)
            if scale is not None:
                part = scaled(part, scale, begin, math.prod(shape[1:]))
            flat[begin : begin + PIECE] = part
        return tensor

    def _scale(self, name: str) -> torch.Tensor | None:
        """float32 [1] or [rows]: what the weight is to be multiplied by."""
        beside = self._companions.scales.get(name)
        if beside is None:
            return None
        scale = self.read(beside, torch.float32).reshape(-1)
        check_finite(scale, beside, self.where)
        return scale

    def stored(self, name: str) -> list[tuple[SafetensorsFile, str]]:
        """(file, name there) of the tensor, and of the scale that comes with it."""
        beside = self._companions.scales.get(name)
        return [(self._home[n], n) for n in (name, beside) if n is not None]


class MappedSource:
    """A TensorSource under other names, with tensors reshaped or split on the way.

    table: {new name: (name in `source`, shape as read, function applied to the tensor)}. The shape
    is the function's result's; None keeps shape and tensor. `extra` are names in `source` that the
    table does not use and that nothing accounts for; they are reported by `load_module`.
    """

    def __init__(
        self,
        source: TensorSource,
        table: Mapping[str, Entry],
        where: str,
        extra: Iterable[str] = (),
    ):
        self.source, self.where = source, where
        self._table = dict(table)
        for name in extra:
            self._table.setdefault(name, (name, None, None))

    def __contains__(self, name: object) -> bool:
        return name in self._table

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._table))

    def close(self) -> None:
        """Leaves the file open: the checkpoint's other parts read it too."""

    def __enter__(self) -> "MappedSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def keys(self) -> list[str]:
        return sorted(self._table)

    def spec(self, name: str) -> tuple[torch.dtype, tuple[int, ...]]:
        old, shape, _ = self._table[name]
        dtype, stored = self.source.spec(old)
        return dtype, stored if shape is None else shape

    def nbytes(self) -> int:
        total = 0
        for name in self._table:
            dtype, shape = self.spec(name)
            total += dtype.itemsize * torch.Size(shape).numel()
        return total

    def read(
        self, name: str, dtype: torch.dtype | None = None, into: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As TensorSource.read; `into` serves where the tensor is as it is in the source."""
        old, shape, change = self._table[name]
        tensor = self.source.read(old, dtype, into if change is None else None)
        if change is not None:
            tensor = change(tensor)
        if shape is not None:
            tensor = tensor.reshape(shape)
        return tensor.contiguous()

    def stored(self, name: str) -> list[tuple[SafetensorsFile, str]]:
        return self.source.stored(self._table[name][0])


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """The memory of a tensor of one dimension."""
    return tensor.view(torch.uint8).numpy().data if tensor.numel() else memoryview(b"")


def _close_all(files: Iterable[SafetensorsFile]) -> None:
    for file in files:
        file.close()


def open_weights(
    folder: str | os.PathLike[str],
    *,
    subfolder: str | None = None,
    variant: str | None = None,
    basenames: tuple[str, ...] = BASENAMES,
) -> TensorSource:
    """The weights of one model in a diffusers or transformers folder; headers only are read.

    folder: the model's folder, or the checkpoint's with the model in `subfolder`.
    variant: "fp16" reads `<basename>.fp16.safetensors`, or the shards that
    `<basename>.safetensors.index.fp16.json` lists; None reads those without a variant.

    Raises CheckpointError where there are none, only pickles, or a damaged or unsafe file.
    """
    folder = Path(folder)
    check_variant(variant)
    roots = allowed_roots(folder)
    place = model_folder(folder, subfolder)
    names = list_folder(place)
    for base in basenames:
        whole = f"{base}.{variant}.safetensors" if variant else f"{base}.safetensors"
        if whole in names:
            path = place / whole
            return TensorSource([SafetensorsFile(path, roots)], str(path))
        for index in _index_names(base, variant):
            if index in names:
                return _open_shards(place / index, roots)
    raise CheckpointError(f"{place}: {_why_none(place, names, variant, basenames)}")


def check_variant(variant: str | None) -> None:
    if variant is not None and not re.fullmatch(r"[A-Za-z0-9_-]{1,32}", variant):
        raise CheckpointError(f"variant {show(variant)} is no name such as fp16")


def model_folder(folder: Path, subfolder: str | None) -> Path:
    """`folder`/`subfolder`, an existing folder inside the checkpoint; raises CheckpointError."""
    place = folder
    if subfolder:
        if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", subfolder):
            raise CheckpointError(f"subfolder {show(subfolder)} is no plain folder name")
        place = folder / subfolder
    if not os.path.isdir(place):
        raise CheckpointError(f"{place}: no such folder")
    check_inside(place, allowed_roots(folder))
    return place


def available_variants(folder: Path) -> set[str | None]:
    """The variants of which `folder` has weights: None for the plain ones, else "fp16" etc."""
    found: set[str | None] = set()
    for name in list_folder(folder):
        for base in BASENAMES:
            rest = name.removeprefix(base)
            if rest == name:
                continue
            if rest in (".safetensors", ".safetensors.index.json"):
                found.add(None)
            match = re.fullmatch(
                r"\.(?:safetensors\.index\.)?([A-Za-z0-9_-]+)"
                r"\.(?:json|safetensors|safetensors\.index\.json)",
                rest,
            )
            if match and not re.search(r"\d{5}-of-\d{5}", rest) and match[1] != "index":
                found.add(match[1])
    return found


def _index_names(base: str, variant: str | None) -> list[str]:
    if variant is None:
        return [f"{base}.safetensors.index.json"]
    return [f"{base}.safetensors.index.{variant}.json", f"{base}.{variant}.safetensors.index.json"]


def _why_none(
    place: Path, names: list[str], variant: str | None, basenames: tuple[str, ...]
) -> str:
    wanted = " or ".join(
        f"{b}.{variant}.safetensors" if variant else f"{b}.safetensors" for b in basenames
    )
    pickles = [n for n in names if is_pickle_name(n)]
    others = [n for n in names if n.endswith(".safetensors")]
    variants = available_variants(place) - {variant}
    if variants:
        choices = listing(f"variant={show(v)}" for v in sorted(variants, key=str))
        return f"expected {wanted}; there are weights for {choices}"
    if others:
        return f"expected {wanted}, found {listing(map(show, others))}"
    if pickles:
        return f"only pickles, {listing(map(show, pickles))}: {CONVERT}"
    return f"no weights: expected {wanted} or its index"


def _open_shards(index: Path, roots: tuple[str, ...]) -> TensorSource:
    weight_map = load_json(index, roots=roots).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: weight_map should map tensor names to files")
    for name, file in weight_map.items():
        _check_shard_name(name, file, index)
    shards = sorted(set(weight_map.values()))
    if len(shards) > MAX_SHARDS:
        raise CheckpointError(f"{index}: {len(shards)} shards, at most {MAX_SHARDS} are read")
    missing = [s for s in shards if not os.path.exists(index.parent / s)]
    if missing:
        raise CheckpointError(
            f"{index}: {len(missing)} of {len(shards)} shards are missing:"
            f" {listing(map(show, missing))}"
        )
    files: list[SafetensorsFile] = []
    try:
        for shard in shards:
            files.append(SafetensorsFile(index.parent / shard, roots))
        _check_against_index(weight_map, dict(zip(shards, files, strict=True)), index)
    except BaseException:
        _close_all(files)
        raise
    return TensorSource(files, str(index))


def _check_shard_name(name: str, file: object, index: Path) -> None:
    at = f"{index}: the file of {show(name)}"
    if not isinstance(file, str):
        raise CheckpointError(f"{at} should be a name, found {show(file)}")
    if is_pickle_name(file):
        raise CheckpointError(f"{at}, {show(file)}: {CONVERT}")
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,250}\.safetensors", file):
        raise CheckpointError(
            f"{at} should be the name of a .safetensors file in the same folder, found {show(file)}"
        )


def _check_against_index(
    weight_map: dict[str, str], files: dict[str, SafetensorsFile], index: Path
) -> None:
    absent = [n for n, shard in weight_map.items() if n not in files[shard].entries]
    unlisted = [
        n for shard, file in files.items() for n in file.entries if weight_map.get(n) != shard
    ]
    problems = []
    if absent:
        problems.append(
            f"{len(absent)} tensors are not where it says: {listing(map(show, absent))}"
        )
    if unlisted:
        problems.append(f"{len(unlisted)} are not listed: {listing(map(show, unlisted))}")
    if problems:
        raise CheckpointError(f"{index}: {'; '.join(problems)}")
