"""Opening a stranger's file: only regular files, only inside the checkpoint, never a hang."""

import io
import os
import stat
from pathlib import Path

from ..errors import CheckpointError
from .text import listing, show

PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz")

CONVERT = (
    "a pickle can run code when it is opened, so pyengine reads safetensors only; convert it on a"
    " machine where that is acceptable, with torch.load(file, weights_only=True) and"
    " safetensors.torch.save_file(state_dict, 'model.safetensors')"
)


def is_pickle_name(name: str | os.PathLike[str]) -> bool:
    return os.fspath(name).lower().endswith(PICKLE_SUFFIXES)


def refuse_pickle(path: str | os.PathLike[str]) -> None:
    if is_pickle_name(path):
        raise CheckpointError(f"{path}: {CONVERT}")


def list_folder(folder: str | os.PathLike[str]) -> list[str]:
    """The names in a folder, sorted; raises CheckpointError if it cannot be listed."""
    try:
        return sorted(os.listdir(folder))
    except OSError as e:
        raise CheckpointError(f"{folder}: cannot be listed: {e.strerror}") from e


def allowed_roots(folder: Path) -> tuple[str, ...]:
    """The real folders that a file of the checkpoint in `folder` may lie in.

    That is `folder` itself. In a Hub cache, snapshots/<revision>/... are links into the blobs/
    folder beside it, so for such a folder the same repository's blobs/ is allowed too.
    """
    roots = [os.path.realpath(folder)]
    absolute = Path(os.path.abspath(folder))
    for part in (absolute, *absolute.parents):
        repo = part.parent.parent
        if part.parent.name == "snapshots" and repo.name.startswith("models--"):
            roots += [os.path.realpath(part), os.path.realpath(repo / "blobs")]
            break
    return tuple(roots)


def is_inside(path: Path, roots: tuple[str, ...]) -> bool:
    """Whether `path`, with its links followed, lies inside one of `roots`."""
    return _inside(os.path.realpath(path), roots)


def check_inside(path: Path, roots: tuple[str, ...]) -> None:
    """Raises CheckpointError if `path`, with its links followed, lies outside all `roots`."""
    real = os.path.realpath(path)
    if not _inside(real, roots):
        raise CheckpointError(
            f"{path}: leads outside the checkpoint, to {show(real)}{_other_links(path, roots)}"
        )


def _inside(real: str, roots: tuple[str, ...]) -> bool:
    return any(real == root or real.startswith(root.rstrip(os.sep) + os.sep) for root in roots)


def _other_links(path: Path, roots: tuple[str, ...]) -> str:
    """Which names beside the checkpoint's `path` lead outside too, and what to do about it."""
    try:
        beside = {
            name: os.path.realpath(os.path.join(roots[0], name))
            for name in sorted(os.listdir(roots[0]))
        }
    except OSError:
        beside = {}
    links = {name: real for name, real in beside.items() if not _inside(real, roots)}
    others = [show(name) for name in links if name != path.name]
    also = f", as do {listing(others)}" if others else ""
    homes = {
        os.path.dirname(real) for name, real in links.items() if os.path.basename(real) == name
    }
    way = "copy the files into it (cp -rL)"
    if len(homes) == 1 and len(links) == sum(os.path.basename(r) == n for n, r in links.items()):
        way = f"load {show(homes.pop())} itself, or {way}"
    return f"{also}; links may lead within the folder, and in a Hub cache to its blobs: {way}"


def link_to_nothing(path: Path) -> str | None:
    """Where the link `path` leads, if there is nothing; else None."""
    if os.path.islink(path) and not os.path.exists(path):
        return show(os.path.realpath(path))
    return None


def open_regular(
    path: str | os.PathLike[str], roots: tuple[str, ...] | None = None
) -> tuple[io.FileIO, int]:
    """Opens a regular file for unbuffered reading; returns (file, size in bytes).

    path: the file. roots: where it may lie (see `allowed_roots`); None allows any place.
    Raises CheckpointError for anything that is no regular file; a fifo or device does not hang.
    """
    try:
        if roots is not None:
            check_inside(Path(path), roots)
        _check_regular(os.stat(path).st_mode, path)
        file = io.FileIO(path, "r", opener=_open_without_waiting)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except CheckpointError:
        raise
    except (OSError, ValueError) as e:  # ValueError: a NUL in the name
        raise CheckpointError(f"{show(str(path))}: cannot be opened: {e}") from e
    try:
        info = os.fstat(file.fileno())
        _check_regular(info.st_mode, path)
    except BaseException:
        file.close()
        raise
    return file, info.st_size


def _open_without_waiting(path: str, flags: int) -> int:
    # Between the stat and the open the file may have become a fifo: O_NONBLOCK does not wait.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check_regular(mode: int, path: str | os.PathLike[str]) -> None:
    if not stat.S_ISREG(mode):
        kind = (
            "a folder"
            if stat.S_ISDIR(mode)
            else "a fifo"
            if stat.S_ISFIFO(mode)
            else "a socket"
            if stat.S_ISSOCK(mode)
            else "a device"
        )
        raise CheckpointError(f"{path}: expected a regular file, found {kind}")


def read_exactly(file: io.FileIO, buffer: memoryview, offset: int, where: str) -> None:
    """Fills `buffer` from byte `offset` of the file; raises CheckpointError if it ends before."""
    done = 0
    while done < len(buffer):
        try:
            got = _read_at(file, buffer[done:], offset + done)
        except OSError as e:
            raise CheckpointError(f"{where}: cannot be read: {e}") from e
        if not got:
            raise CheckpointError(
                f"{where}: ends at byte {offset + done}, expected {len(buffer) - done} more"
            )
        done += got


def _read_at(file: io.FileIO, buffer: memoryview, offset: int) -> int | None:
    """Reads into `buffer` from byte `offset` on; returns how many bytes came."""
    if hasattr(os, "preadv"):  # needs no position, which threads and forked processes share
        return os.preadv(file.fileno(), [buffer], offset)
    file.seek(offset)
    return file.readinto(buffer)


def read_small(
    path: str | os.PathLike[str], max_bytes: int, roots: tuple[str, ...] | None = None
) -> bytes:
    """The bytes of a regular file of at most `max_bytes`; raises CheckpointError otherwise."""
    refuse_pickle(path)
    file, size = open_regular(path, roots)
    with file:
        if size > max_bytes:
            raise CheckpointError(f"{path}: {size} bytes, at most {max_bytes} are read")
        data = bytearray(size)
        read_exactly(file, memoryview(data), 0, str(path))
        return bytes(data)
