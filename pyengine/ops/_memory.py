"""Where the results of the CPU's kernels lie: in an arena within `with arena.use():`.

Fresh memory for a large result costs a page fault every 4 KB, three times what computing it costs;
an arena's pages are used over and over. Its tensors are ordinary ones: the memory goes back to the
arena when the last that uses it dies, so that a result may be kept for any time.
"""

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from ._core import DTYPES, core

#: Bytes from which a result comes from the arena in use: below, malloc has memory at hand as well.
LEAST = 1 << 16
#: Bytes from which a result comes from the spare arena, outside of any other: malloc may give as
#: much back to the system, to be mapped anew at the next call, and above 32 MB always does.
SPARE_LEAST = 1 << 22
#: What the spare arena may keep at most.
SPARE_BYTES = 128 << 20

_current: ContextVar["Arena | None"] = ContextVar("pyengine_arena", default=None)
_place: ContextVar[Tensor | None] = ContextVar("pyengine_place", default=None)


class Arena:
    """A pool of memory for activations, of no size until it is used; any thread may use it.

    It reserves `reserve` bytes of address space (as much as the machine has memory unless told), on
    first use, and grows to the most that a call has needed. Freed with the last of its tensors and
    itself.
    """

    def __init__(self, reserve: int | None = None, replayed: bool = False):
        """Reserves address space, no memory yet.

        Args:
            reserve: bytes of address space; None: the machine's memory.
            replayed: all results come from here, the smallest too, and kernels that are called
                again write to memory that was given back.
        """
        self._arena: Any = None  # of pyengine._core, made when it is first used
        self._reserve, self._replayed = reserve, replayed
        self._least = 0 if replayed else LEAST

    def __reduce__(self) -> tuple[type["Arena"], tuple[int | None, bool]]:
        """A copy, of a model for one, gets memory of its own: nothing of what lies here."""
        return Arena, (self._reserve, self._replayed)

    @contextmanager
    def use(self) -> Iterator[None]:
        """Within the block this thread's ops take their results from here, or from the arena that
        a block around it uses already.
        """
        if _current.get() is not None:
            yield
            return
        with self.alone():
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """The same, from here whatever a block around it uses."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def trim(self) -> None:
        """Gives all memory that is not in use back to the system."""
        if self._arena is not None:
            self._arena.trim()

    def statistics(self) -> dict[str, int]:
        """Bytes: reserved (address space), used, peak (the most of `used`), touched (what may be
        resident); and how many blocks are in use.
        """
        if self._arena is None:
            return dict.fromkeys(("reserved", "used", "blocks", "peak", "touched"), 0)
        found: dict[str, int] = self._arena.statistics()
        return found

    def _empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor | None:
        if self._arena is None:
            self._arena = core().Arena(self._reserve or _machine_memory(), not self._replayed)
        capsule = self._arena.empty(shape, DTYPES[dtype])
        return None if capsule is None else from_dlpack(capsule)


#: For calls of single ops.
_spare = Arena(SPARE_BYTES)


def _machine_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not a system that tells
        return 16 << 30


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A contiguous CPU tensor with undefined contents, for a kernel to fill.

    Where it is large, from the arena in use, or from a small spare one, if that has room; else from
    torch.
    """
    place = _place.get()
    if place is not None and place.dtype == dtype and place.shape == tuple(shape):
        _place.set(None)
        return place
    arena = _current.get()
    size = dtype.itemsize
    for n in shape:
        size *= n
    if size >= (SPARE_LEAST if arena is None else arena._least):
        tensor = (arena or _spare)._empty(tuple(shape), dtype)
        if tensor is not None:
            return tensor
    return torch.empty(shape, dtype=dtype)


@contextmanager
def placed(destination: Tensor) -> Iterator[None]:
    """Within the block the first result of the destination's shape and dtype lies there, where a
    kernel of ours computes it; who asks has to look where it lies.

    destination: contiguous, on the CPU; a part of a larger tensor, which is not copied together.
    """
    token = _place.set(destination)
    try:
        yield
    finally:
        _place.reset(token)


def empty_like(x: Tensor) -> Tensor:
    """A contiguous tensor of x's shape and dtype; see `empty`."""
    return empty(x.shape, x.dtype)


def release_free_memory() -> None:
    """Hands what malloc holds free back to the system, where it is glibc's: packing 2 GB of weights
    leaves 50 MB of holes.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):  # another C library, or a system without any
        return
    trim(0)
