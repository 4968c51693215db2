"""A kernel launch as a value, so that tests compile exactly what a call would run."""

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


def power_of_2(n: int) -> int:
    """The smallest power of two that is at least n: Triton's block sizes are powers of two."""
    return 1 << max(n - 1, 0).bit_length()


def cdiv(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)
