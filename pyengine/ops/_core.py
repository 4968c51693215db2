"""Finds the compiled CPU kernels, pyengine._core, and says what they are running on."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ..errors import UnavailableError

#: dtypes that the compiled kernels read and write, and their numbers there.
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
#: And of packed weights (csrc/core/dtype.h).
WEIGHT_DTYPES = {**DTYPES, torch.int8: 3}

#: Of the functions that pyengine._core must have: csrc/bindings/core.cc counts it up.
INTERFACE = 8

_stand_in: ContextVar[Any] = ContextVar("pyengine_core", default=None)


def core() -> Any:
    """The module pyengine._core, or what stands in for it in this thread (context).

    Raises UnavailableError, with what the import said, if it was not built or cannot be loaded.
    """
    return _stand_in.get() or _imported()


@contextmanager
def standing_in(other: Any) -> Iterator[None]:
    """Within the block core() returns `other`."""
    token = _stand_in.set(other)
    try:
        yield
    finally:
        _stand_in.reset(token)


def is_stood_in_for() -> bool:
    return _stand_in.get() is not None


@cache
def _imported() -> Any:
    """pyengine._core; from then on a fork leaves a child that can compute.

    Raises UnavailableError, with what the import said, if it was not built or cannot be loaded, and
    where it was built from other sources, whose functions take other arguments.
    """
    try:
        _core: Any = import_module("pyengine._core")
    except ImportError as error:
        raise UnavailableError(
            f"the compiled CPU kernels cannot be loaded ({error}); "
            "build them with `pip install .` (or `pip install -e .`) in pyengine's source tree"
        ) from error
    found = getattr(_core, "INTERFACE", 1)
    if found != INTERFACE:
        raise UnavailableError(
            f"pyengine._core: expected interface {INTERFACE}, got {found} ({_core.__file__}): built"
            " from other sources than the Python around it; run `pip install .` again, or copy in a"
            " module that was built since"
        )
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_in_child)
    return _core


class Negated(Exception):  # noqa: N818 - caught by the op, which then takes another way
    """A tensor stands for the negatives of what lies in its memory, as the imaginary part of a
    conjugate does in torch.
    """


def _in_child() -> None:
    """After a fork; csrc/core/parallel.cc sees to the threads of our kernels and of torch's loops.

    torch's third pool, pthreadpool, which set_num_threads makes, would at the child's end wait for
    threads of the parent's; set_num_threads replaces it. And an old libgomp cannot be helped.
    """
    lost = _imported().openmp_lost_its_threads()
    torch.set_num_threads(1 if lost else torch.get_num_threads())
    if lost:
        warnings.warn(
            "this process was forked, and torch's OpenMP runtime, a libgomp from before GCC 9,"
            " cannot start threads again in a child: torch and pyengine compute on one thread here;"
            " load models after the fork, or start processes with multiprocessing's spawn, to use"
            " more",
            RuntimeWarning,
            stacklevel=2,
        )


def address(tensor: Tensor | None) -> int:
    """Where a contiguous tensor begins; 0 for None. Raises Negated."""
    if tensor is None:
        return 0
    if tensor.is_neg():
        raise Negated
    return tensor.data_ptr()


def float32(tensor: Tensor) -> Tensor:
    """The tensor contiguous and in float32, itself where it is so already."""
    if tensor.dtype is torch.float32 and tensor.is_contiguous():
        return tensor  # four times as fast as asking torch to do nothing, twice
    return tensor.to(torch.float32).contiguous()


def multiplies_bfloat16() -> bool:
    """Whether the instruction set in use has kernels that multiply bfloat16 as such."""
    return isa().endswith("_bf16")


def multiplies_tiles() -> bool:
    """Whether convolutions are such kernels too."""
    return isa() == "amx_bf16"


def isa() -> str:
    """The instruction set in use: amx_bf16, avx512, portable, ...; PYENGINE_ISA forces one."""
    name: str = core().isa()
    return name


def isas() -> dict[str, str]:
    """Each instruction set of this build, with why it does not run here ("" where it does)."""
    found: dict[str, str] = core().isas()
    return found


def openmp_runtimes() -> list[str]:
    """The OpenMP runtimes that this process has loaded, by path: torch's, since our kernels have
    threads of their own. More than one compete for the cores.

    Empty where /proc/self/maps does not exist, and before torch is imported.
    """
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
            files = {line.split(maxsplit=5)[5].strip() for line in maps if line.count("/")}
    except OSError:
        return []
    return sorted(f for f in files if re.search(r"/lib(gomp|omp|iomp5)[^/]*\.(so|dylib)", f))
