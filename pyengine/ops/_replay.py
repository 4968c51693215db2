"""Functions made of small kernels without the Python in between: noted once, called again.

A token's kernels take some 40 us each, and what Python does around one takes as long: it has left
the caches while the weights went through them. The second call with a tensor of some shape
therefore notes what is called in pyengine._core, with all arguments; the calls after it do that and
nothing else, in the same memory. The bits are the same, since the kernels are.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from . import _backend, _core, _memory

#: Elements of the largest argument: some 20 rows of 2048. Larger ones hide what surrounds kernels.
MOST = 40_000
#: Of one function: how many shapes are kept, some 30 KB each; the one that was not called for the
#: longest time goes first. A batch that jobs join and leave has a shape for every number of rows.
KEPT = 64
#: Address space for what lies between the kernels.
RESERVED = 256 << 20
#: What depends on nothing but its arguments and the memory that they point to.
KERNELS = frozenset(
    """
    attention conv2d decode_attention divide enlarge geglu group_norm_apply group_norm_scale_shift
    group_norm_silu halve join_rows layer_norm linear modulate rms_norm rotary_cache swiglu
    """.split()  # noqa: SIM905
)

_PLAIN = (Tensor, torch.nn.Parameter)

Result = TypeVar("Result")


class Replays:
    """What a function's kernels are, for each shape of its argument."""

    def __init__(self) -> None:
        self._known: dict[Hashable, _Recording | None] = {}
        self._arena = _memory.Arena(RESERVED, replayed=True)

    def __call__(
        self,
        function: Callable[[Tensor], Tensor],
        x: Tensor,
        same: Hashable,
        held: Callable[[], Iterable[Any]],
    ) -> Tensor:
        """function(x), in memory of its own.

        The function is called itself where x is large or not on a CPU, where gradients may be
        wanted or a backend is forced, and where torch computes anything in it.

        Args:
            function: reads x, and tensors that lie where they lay in all calls with an equal
                `same`; decides nothing by their contents.
            x: a tensor, copied in.
            same: names those calls.
            held: what keeps these tensors in place.
        """
        if x.numel() > MOST or not suits(x):
            return function(x)
        key = (same, x.shape, x.dtype, torch.get_num_threads(), _core.isa())
        if key not in self._known:  # once is not often
            if len(self._known) >= KEPT:
                del self._known[next(iter(self._known))]
            self._known[key] = None
            return function(x)
        recording = self._known[key] = self._known.pop(key)  # the last to go
        if recording is None:
            recording = self._known[key] = _Recording(self._arena)
            return recording.note(function, x, held)
        y = recording.repeat(x) if recording.complete else None
        return function(x) if y is None else y


class Kernels:
    """What a function called in pyengine._core while it ran once, in the memory of an arena."""

    def __init__(self, arena: _memory.Arena):
        self._arena = arena
        #: Whether that is all that it did.
        self.complete = False
        self._calls: list[tuple[Callable[..., int | None], tuple[Any, ...]]] = []

    def note(self, function: Callable[[], Result]) -> Result:
        """The function's result; its tensors lie in the arena."""
        core, torchs = _Noting(_core.core()), _TorchSeen()
        with self._arena.alone(), _core.standing_in(core), torchs, _backend.kernels_used() as used:
            y = function()
        self.complete = core.complete and not torchs.computed
        if self.complete:
            self._calls, self._used = core.calls, used
        return y

    def repeat(self) -> bool:
        """The same calls again; False where a kernel refuses."""
        for kernel, arguments in self._calls:
            refused = kernel(*arguments)
            if refused is not None and refused >= 0:
                return False
        _backend.record_all(self._used)
        return True


class _Recording:
    """The kernels of one call, and the tensors that they read and write."""

    def __init__(self, arena: _memory.Arena):
        self.kernels = Kernels(arena)

    @property
    def complete(self) -> bool:
        return self.kernels.complete

    @torch.inference_mode(False)
    @torch.no_grad()
    def note(
        self,
        function: Callable[[Tensor], Tensor],
        x: Tensor,
        held: Callable[[], Iterable[Any]],
    ) -> Tensor:
        """Runs the function once, noting."""
        self.x: Tensor = x.clone(memory_format=torch.contiguous_format)
        self.held = list(held())
        self.y: Tensor = self.kernels.note(lambda: function(self.x))
        return self.y.clone()

    def repeat(self, x: Tensor) -> Tensor | None:
        """The function's result for another x; None where a kernel refuses."""
        self.x.copy_(x)
        return self.y.clone() if self.kernels.repeat() else None


class _Noting:
    """Stands for pyengine._core and notes the calls of its functions."""

    def __init__(self, core: Any):
        self._core = core
        self.calls: list[tuple[Callable[..., int | None], tuple[Any, ...]]] = []
        self.complete = True

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._core, name)
        if name == "isa" or isinstance(function, type):  # of arguments, of memory
            return function

        def noted(*arguments: Any) -> Any:
            self.calls.append((function, arguments))
            self.complete = self.complete and name in KERNELS
            return function(*arguments)

        return noted


class _TorchSeen(TorchDispatchMode):
    """Sees whether torch computes anything, or makes tensors of its own."""

    computed = False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's

    def _see(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        self.computed = self.computed or not func.is_view
        return func(*args, **(kwargs or {}))


# Defined under this name in the class, it would be wrapped in what imports torch's compiler: 1.6 s.
setattr(_TorchSeen, "__torch_dispatch__", _TorchSeen._see)  # noqa: B010 - a method, to mypy


_unrecorded: ContextVar[bool] = ContextVar("pyengine_unrecorded", default=False)


@contextmanager
def unrecorded() -> Iterator[None]:
    """Within the block functions compute something else than what was recorded of them, so that
    nothing is recorded or repeated.
    """
    token = _unrecorded.set(True)
    try:
        yield
    finally:
        _unrecorded.reset(token)


def is_unrecorded() -> bool:
    """Whether this thread (context) is in a block of `unrecorded`."""
    return _unrecorded.get()


def suits(x: Tensor) -> bool:
    """Whether what is computed of x may be recorded."""
    return (
        type(x) in _PLAIN
        and x.device.type == "cpu"
        and x.dtype in _core.DTYPES
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not _backend.forcing()
        and not _core.is_stood_in_for()
        and not _unrecorded.get()
    )
