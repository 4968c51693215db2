"""Memory for slots of one size, of which only those in use take any."""

import contextlib
import mmap
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

#: Numbers that torch fills on the calling thread: from 32,768 on it shares them out.
SERIAL = 32_767
#: Linux's own number: Python names it from 3.13 on.
_NO_RESERVE = 0x4000


class SlotMemory:
    """A tensor [slots, *shape] of zeros; on Linux's CPUs address space, whose pages become resident
    when they are first written, so that room for many slots costs nothing.

    On other systems and devices it is ordinary memory.
    """

    def __init__(self, slots: int, shape: Sequence[int], like: Tensor):
        """like: has the device and dtype. Raises MemoryError where there is not so much."""
        size = like.element_size()
        for n in shape:
            size *= n
        self.tensor: Tensor
        self._pages: mmap.mmap | None = None
        # Whole pages, so that a slot's can go back to the system.
        self._stride = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        if reserves(like.device) and slots * size:
            self.tensor = self._reserved(slots, shape, like.dtype)
        else:
            self.tensor = zeros((slots, *shape), like)

    def _reserved(self, slots: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE
        try:
            self._pages = mmap.mmap(-1, slots * self._stride, flags=flags)
        except (OSError, OverflowError, ValueError) as error:
            raise MemoryError(f"cannot allocate memory: {slots * self._stride} bytes") from error
        whole = torch.frombuffer(self._pages, dtype=dtype)
        strides = [1]
        for n in reversed(shape[1:]):
            strides.insert(0, strides[0] * n)
        return whole.as_strided((slots, *shape), (self._stride // dtype.itemsize, *strides))

    def forget(self, slot: int) -> None:
        """Gives a slot's pages back to the system, which zeroes them when they are used again."""
        if self._pages is not None:
            with contextlib.suppress(OSError):  # of a process that locks its memory
                self._pages.madvise(mmap.MADV_DONTNEED, slot * self._stride, self._stride)


def reserves(device: torch.device) -> bool:
    """Whether room for slots there costs nothing until it is used."""
    return device.type == "cpu" and sys.platform == "linux"


def zeros(shape: Sequence[int], like: Tensor) -> Tensor:
    """like.new_zeros(shape). On the CPU in pieces for which torch does not wake its threads, which
    beside busy processes took 100 ms a tensor.
    """
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    filled = like.new_empty(shape)
    flat = filled.view(-1)
    for begin in range(0, len(flat), SERIAL):
        flat[begin : begin + SERIAL].zero_()
    return filled
