"""Models that calls name by their places: the last ones are kept for the next call."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..errors import RequestError
from ..weights.text import show

T = TypeVar("T")
Key = tuple[str, str, torch.device]
#: Name, size, inode and time of the last change of each file.
Stamp = tuple[tuple[str, int, int, int], ...]


class Kept:
    """The last MOST models that a pipeline's calls have named: they are loaded again only where
    their files have changed, and are gone with the pipeline. Safe from any thread; a model that
    several threads ask for is loaded once.
    """

    MOST = 2

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[Key, tuple[Stamp, Any]] = OrderedDict()

    def get(
        self, kind: str, place: str | os.PathLike[str], device: torch.device, load: Callable[[], T]
    ) -> T:
        """What `load` gives for a place, or gave for it as it is now. kind: the argument that names
        it. What `load` raises is raised, and nothing is kept; RequestError for what is no path.
        """
        path = os.path.abspath(os.path.expanduser(os.fspath(place)))
        key = kind, path, device
        with self._lock:
            try:
                stamp = _stamp(Path(path))
            except ValueError:  # a NUL or a lone surrogate, which no file system knows
                raise RequestError(f"{kind}: {show(os.fspath(place))} is no path") from None
            held = self._found.get(key)
            if not stamp or held is None or held[0] != stamp:
                self._found.pop(key, None)  # first, so that not both are in memory
                held = stamp, load()
                self._found[key] = held
            self._found.move_to_end(key)
            while len(self._found) > self.MOST:
                self._found.popitem(last=False)
            found: T = held[1]
            return found


def _stamp(path: Path) -> Stamp:
    """Of a file, or of the files of a folder; nothing where there is none, or it cannot be read."""
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        stats = [(file.name, file.stat()) for file in files]
    except OSError:
        return ()
    return tuple((name, s.st_size, s.st_ino, s.st_mtime_ns) for name, s in stats)
