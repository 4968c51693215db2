"""A kernel launch as a value, so that tests compile exactly what a call would run."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyengine.errors import RequestError

# a * b + c rounded once; said, because Triton's default changes between versions.
OPTIONS = {"enable_fp_fusion": True}

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Launch:
    """One kernel with its grid, run-time arguments (by name) and compile-time constants."""

    kernel: Any
    grid: tuple[int, ...]
    args: dict[str, Any]
    constants: dict[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    # Loads in flight, of loops that tl.dot reads from.
    num_stages: int = 3

    @property
    def options(self) -> dict[str, Any]:
        """How Triton is to compile it."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, **OPTIONS}

    def run(self) -> None:
        """Launches on the current stream of the GPU that holds the tensors."""
        if 0 in self.grid:
            return
        tensor = next(value for value in self.args.values() if isinstance(value, Tensor))
        with torch.cuda.device_of(tensor):
            self.kernel[self.grid](**self.args, **self.constants, **self.options)


def prepare(op: str, x: Tensor, *others: Tensor | None) -> list[Tensor | None]:
    """Tensors as the kernels read them: x and the others, contiguous, none wider than float32.

    Copies what is not contiguous or begins off a 16-byte boundary: Triton would compile another
    program for that, which may add in another order. Narrows other tensors in float64, but refuses
    such an x, whose dtype is the result's. Shapes and devices are the business of the wrappers in
    pyengine.ops.
    """
    if x.dtype not in DTYPES:
        raise RequestError(f"{op}: x: expected float32, bfloat16 or float16, got {x.dtype}")
    tensors = (x, *others)
    return [None if t is None else readable(t if t.dtype in DTYPES else t.float()) for t in tensors]


def readable(tensor: Tensor) -> Tensor:
    """The tensor, whatever its dtype, contiguous and on a 16-byte boundary."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % 16 else tensor


def row_step(tensor: Tensor) -> int:
    """From one row of [N, L, C] to the next, in elements."""
    # What a dimension of one has for a stride means nothing.
    return tensor.stride(1) if tensor.shape[1] > 1 else tensor.shape[2]


def picture_step(tensor: Tensor) -> int:
    """From one picture of [N, L, C] to the next; 0 where there is one."""
    return tensor.stride(0) if tensor.shape[0] > 1 else 0


def unit_of(*tensors: Tensor) -> int:
    """What all their rows begin at a multiple of, up to 16: Triton is told, so that it reads 16
    bytes at once.
    """
    return math.gcd(16, *map(row_step, tensors))


def readable_rows(tensor: Tensor, unit: int = 1) -> Tensor:
    """[N, L, C] itself where its rows are contiguous, on a 16-byte boundary, and pictures begin at
    multiples of `unit`; else a copy.
    """
    whole = tensor.stride(2) == 1 or tensor.shape[2] == 1
    whole = whole and picture_step(tensor) % unit == 0 and tensor.data_ptr() % 16 == 0
    return tensor if whole else tensor.clone(memory_format=torch.contiguous_format)


def power_of_2(n: int) -> int:
    """The smallest power of two that is at least n: Triton's block sizes are powers of two."""
    return 1 << max(n - 1, 0).bit_length()


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)
