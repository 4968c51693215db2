"""Which implementation of an op runs: one table, op x device -> backends in order of preference.

A row says what it takes; the first that takes a call runs it. That is a function of device, dtype,
whether a gradient is wanted and, in rows with `serves`, one picture's shape, never of the batch or
a timing, and nothing falls back that the table does not declare: what no row takes is refused.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..errors import RequestError, UnavailableError
from ._core import DTYPES, core

#: Device types without a column of their own use this one.
ANY = "any"

FLOATS = frozenset(DTYPES)
ALL_FLOATS = FLOATS | {torch.float64}


@dataclass(frozen=True)
class Backend:
    """One implementation of one op, with the signature of the op's reference."""

    name: str
    """cpu (C++), cuda (CUDA C++), triton, flash-attention-3, torch (its own kernels) or reference.
    """
    why: str
    """Why it stands where it does in the table."""
    load: Callable[[], Callable[..., Any]]
    """Imports and returns the implementation."""
    dtypes: frozenset[torch.dtype] = ALL_FLOATS
    differentiable: bool = False
    batch_invariant: bool = True
    """Whether a picture's bits are the same alone and in a batch, on any number of threads."""
    serves: Callable[..., bool] | None = None
    """Given the op's arguments, whether the row stands here for them too; None: for all. Looks at
    one picture's shape and at dtypes only.  force() does not ask."""
    _loaded: list[Callable[..., Any]] = field(default_factory=list, repr=False, compare=False)

    @property
    def label(self) -> str:
        """The name as reports show it, with the instruction set for C++."""
        return f"cpu-{core().isa()}" if self.name == "cpu" else self.name

    @property
    def function(self) -> Callable[..., Any]:
        """The implementation, imported on first use."""
        if not self._loaded:
            self._loaded.append(self.load())
        return self._loaded[0]

    def takes(self, dtype: torch.dtype, gradient: bool) -> bool:
        return dtype in self.dtypes and (self.differentiable or not gradient)


def cpu(function: Callable[..., Any]) -> Backend:
    """C++ over pyengine._core."""

    def load() -> Callable[..., Any]:
        core()  # raises where it is missing
        return function

    return Backend("cpu", "our C++: fused, one pass where torch makes several", load, FLOATS)


def kernel(op: str, name: str, module: str) -> Callable[..., Any]:
    """A function of pyengine.kernels, for that op; UnavailableError where Triton is missing."""
    try:
        found: Callable[..., Any] = getattr(import_module(f"pyengine.kernels.{module}"), name)
        return found
    except ImportError as error:
        raise UnavailableError(
            f"{op} on a GPU needs Triton ({error}); install it with `pip install triton`, or "
            'choose torch\'s kernels with pyengine.ops.force("reference")'
        ) from error


def triton(
    op: str,
    module: str | None = None,
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function,
    why: str = "our Triton: fused, one pass where torch makes several",
    serves: Callable[..., bool] | None = None,
) -> Backend:
    """The kernel of that name in pyengine.kernels; wrap adds what it leaves to its caller."""

    def load() -> Callable[..., Any]:
        return wrap(kernel(op, op, module or op))

    return Backend("triton", why, load, FLOATS, serves=serves)


@cache
def without_triton() -> bool:
    """Whether pyengine's CUDA C++ was built and Triton is not installed."""
    return find_spec("triton") is None and find_spec("pyengine._cuda") is not None


def cuda(run: Callable[..., Any]) -> Backend:
    """CUDA C++, in Triton's place where that is missing. run: takes the module, then the op's
    arguments.
    """

    def load() -> Callable[..., Any]:
        try:
            module = import_module("pyengine._cuda")
        except ImportError as error:
            raise UnavailableError(
                f"pyengine was built without its CUDA C++ kernels ({error}); install it again"
                " where nvcc is, with PYENGINE_CUDA=on"
            ) from error
        return partial(run, module)

    why = "our CUDA C++, where it was built and Triton is not installed"
    return Backend("cuda", why, load, FLOATS, serves=lambda *_, **__: without_triton())


@contextmanager
def stream_of(x: Tensor) -> Iterator[int]:
    """The current stream's handle on x's GPU, which is the current device in the block."""
    with torch.cuda.device(x.device):
        yield torch.cuda.current_stream().cuda_stream


def torch_backed(function: Callable[..., Any]) -> Backend:
    """torch's own kernels, arranged without needless copies."""
    why = "torch's own kernels, where ours do not run"
    return Backend("torch", why, lambda: function, FLOATS, batch_invariant=False)


def reference(function: Callable[..., Any]) -> Backend:
    """The specification, which also takes float64 and gradients."""
    why = "the specification in plain torch: float64, gradients, other devices"
    return Backend("reference", why, lambda: function, differentiable=True, batch_invariant=False)


Table = dict[str, tuple[Backend, ...]]

_forced: ContextVar[dict[str, str] | None] = ContextVar("pyengine_forced", default=None)
_recorder: ContextVar[dict[str, list[str]] | None] = ContextVar("pyengine_used", default=None)


def forced(op: str) -> str | None:
    """The backend that force() asks for, None where it asks for none."""
    names = _forced.get() or {}
    return names.get(op) or names.get("*")


def forcing() -> tuple[tuple[str, str], ...]:
    """All that force() asks for here, as a value that can be compared."""
    return tuple(sorted((_forced.get() or {}).items()))


def choose(
    op: str,
    table: Table,
    device: str,
    dtype: torch.dtype,
    gradient: bool,
    serves: Callable[[Backend], bool] = lambda row: True,
) -> Backend:
    """The first row of the op's table that takes the call, or the one that force() asks for.

    serves: whether a row's own `serves` takes the call's arguments.

    Raises RequestError for a dtype that no row takes, UnavailableError for a forced backend that
    the op does not have or that does not take the call.
    """
    rows = table.get(device) or table[ANY]
    name = forced(op)
    if name:
        for row in rows:
            if row.name == name and row.takes(dtype, gradient):
                return row
        have = ", ".join(row.name for row in rows)
        wanted = f"{dtype} on {device}" + (" with a gradient" if gradient else "")
        raise UnavailableError(f"{op}: no backend {name!r} for {wanted}; its backends are {have}")
    for row in rows:
        if row.takes(dtype, gradient) and serves(row):
            return row
    raise RequestError(f"{op}: expected a floating-point dtype up to float64, got {dtype}")


@contextmanager
def force(backend: str, *ops: str) -> Iterator[None]:
    """Runs the named ops (all if none is named) on one backend within a `with` block.

    An op that lacks it raises UnavailableError when called. Applies to this thread (context) alone;
    blocks nest.

    Args:
        backend: "cpu", "cuda", "triton", "flash-attention-3", "torch" or "reference".
        ops: names of ops; none: all.
    """
    known = ("cpu", "cuda", "triton", "flash-attention-3", "torch", "reference")
    if backend not in known:
        raise RequestError(f"force: expected one of {', '.join(known)}, got {backend!r}")
    outer = (_forced.get() or {}) if ops else {}
    token = _forced.set({**outer, **dict.fromkeys(ops or ("*",), backend)})
    try:
        yield
    finally:
        _forced.reset(token)


def record(op: str, label: str) -> None:
    """Notes for kernels_used() that a backend ran an op."""
    used = _recorder.get()
    if used is not None and label not in used.setdefault(op, []):
        used[op].append(label)


def record_all(used: dict[str, list[str]]) -> None:
    """Notes for kernels_used() what another one collected."""
    for op, labels in used.items():
        for label in labels:
            record(op, label)


class KernelsUsed(dict[str, list[str]]):
    """op -> the backends that ran it."""

    def summary(self) -> dict[str, str]:
        """{"group_norm_silu": "cpu-avx2", "conv2d": "torch"}: several are joined by commas."""
        return {op: ", ".join(labels) for op, labels in sorted(self.items())}


@contextmanager
def kernels_used() -> Iterator[KernelsUsed]:
    """Collects what runs within a `with` block, in this thread (context).

    with ops.kernels_used() as used:
        ...
    used.summary()
    """
    used = KernelsUsed()
    token = _recorder.set(used)
    try:
        yield used
    finally:
        _recorder.reset(token)
        record_all(used)  # for a block around this one
