"""Calls on an NVIDIA GPU without waiting: copies, CUDA graphs, how far ahead the host may run.

All of it does nothing, or the same without waiting, on other devices. Nothing here has run on a
GPU yet: docs/gpu.md.
"""

import inspect
import re
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from .errors import OutOfMemoryError, UnavailableError
from .ops import kernels_used
from .ops._backend import forcing, record_all
from .ops._check import unseen
from .ops._replay import is_unrecorded

#: What errors that are no torch.OutOfMemoryError say of memory: CUDA's, its libraries', Triton's,
#: and torch's allocator for the CPU, by system and version.
NO_MEMORY = ("out of memory", "STATUS_ALLOC_FAILED", "DefaultCPUAllocator", "not enough memory",
             "annot allocate memory", "can't allocate memory")  # fmt: skip
_TRIED = re.compile("tried to allocate ([0-9]+) bytes")
_alone: dict[torch.device, threading.RLock] = {}

#: The oldest compute capability that the kernels are compiled for.
OLDEST = (8, 0)

Result = TypeVar("Result")

#: A call on tensors that change from call to call and on others that stay for many calls, to a
#: tensor or several.
Function = Callable[[Sequence[Tensor], Sequence[Tensor]], Any]
#: Makes (replay, result) of a function and its tensors: replay() computes the result anew.
Record = Callable[[Function, Sequence[Tensor], Sequence[Tensor]], tuple[Callable[[], None], Any]]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; to a GPU by way of page-locked memory, which nothing waits for."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def check_capability(device: torch.device) -> None:
    """Raises UnavailableError for a GPU that is too old for the kernels."""
    found = torch.cuda.get_device_capability(device)
    if found < OLDEST:
        raise UnavailableError(
            f"device: {device} is a {torch.cuda.get_device_name(device)} of compute capability"
            f" {found[0]}.{found[1]}; expected {OLDEST[0]}.{OLDEST[1]} or newer (Ampere); the CPU"
            " runs everything too"
        )


def within_memory(
    call: Callable[[], Result], helps: str, release: Callable[[], None] = lambda: None
) -> Result:
    """call(); where the memory does not suffice, the GPU's or the machine's, OutOfMemoryError that
    says what helps.

    release: lets go of what can be made again. The process can go on: the error holds no tensors
    (which a traceback would), and what torch keeps for later goes back to the device.
    """
    try:
        return call()
    except OutOfMemoryError:  # of a call within this one
        raise
    except (RuntimeError, MemoryError) as error:
        text = str(error)
        known = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not known and not any(s in text for s in NO_MEMORY):
            raise
        cause = _cause(text)
    release()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    raise OutOfMemoryError(f"{cause}; {helps}")


def _cause(text: str) -> str:
    """An allocator's complaint in a few words."""
    if tried := _TRIED.search(text):
        return f"out of memory: {int(tried[1]):,} more bytes could not be had"
    first = text.split("\n")[0].split(". ")[0]
    return first if "memory" in first else f"out of memory{first and f' ({first})'}"


def alone(device: torch.device) -> AbstractContextManager[object]:
    """Within the block no other thread is in such a block of that GPU: CUDA records for one at a
    time, and a thread that waits for a GPU spoils another's recording.
    """
    if device.type != "cuda":
        return nullcontext()
    return _alone.setdefault(device, threading.RLock())


class Leash:
    """Keeps the host at most `steps` steps ahead of the GPU, so that a run can be stopped in time
    though nothing in it waits.
    """

    def __init__(self, device: torch.device, steps: int = 2):
        self._device, self._steps = device, steps if device.type == "cuda" else None
        self._events: deque[torch.cuda.Event] = deque()

    def step(self) -> None:
        """A step has been queued."""
        if self._steps is None:
            return
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        self._events.append(event)
        if len(self._events) > self._steps:
            self._events.popleft().synchronize()


@dataclass
class _Recording:
    changing: list[Tensor]
    kept: list[Tensor]
    copied: tuple[weakref.ref[Tensor], ...]  # what `kept` holds the values of
    replay: Callable[[], None]
    result: Any
    kernels: dict[str, list[str]]


class Graphs:
    """function(changing, kept), recorded once for each combination of shapes, then replayed.

    A network's thousands of launches become one. The function gets tensors that belong to the
    recording; a call copies its own into them: `changing` every time, `kept` only where other
    tensors are given than the last time (so they must not be written to in between; what the
    function writes to its own stays there for the next call). It must not wait for the device (ops
    look at no values in it), do the same when it is called again with the same `changing`, and
    read no other tensors but those that stay where they are. At most `most` recordings are kept;
    the one that was not used for the longest time goes first.
    """

    def __init__(self, function: Function, most: int = 4, record: Record | None = None):
        # Bound methods are held weakly: a cycle with their owner, who holds these graphs, would
        # keep GPU memory until the collector runs.
        method = inspect.ismethod(function)
        self._held: Callable[[], Function | None] = (
            weakref.WeakMethod(function) if method else lambda: function
        )
        self._most = most
        self._record = record or Recorder()
        self._recordings: OrderedDict[tuple[Any, ...], _Recording] = OrderedDict()

    def __len__(self) -> int:
        return len(self._recordings)

    def clear(self) -> None:
        """Forgets all recordings and frees their memory."""
        self._recordings.clear()

    @torch.inference_mode(False)  # whose tensors could not be written to outside of it
    @torch.no_grad()
    def __call__(self, changing: Sequence[Tensor], kept: Sequence[Tensor] = ()) -> Any:
        """The result is overwritten by the next call with the same shapes.

        Beside adapters (pyengine.branches.adapted) the function itself runs: a recording would hold
        those that it was made with.
        """
        if is_unrecorded():
            return self._function(changing, kept)
        shapes = tuple((t.shape, t.dtype, t.device) for t in (*changing, *kept))
        key = (shapes, len(changing), forcing())
        found = self._recordings.get(key)
        if found is None:
            while len(self._recordings) >= self._most:
                self._recordings.popitem(last=False)
            found = self._recordings[key] = self._new(changing, kept)
        else:
            self._recordings.move_to_end(key)
            torch._foreach_copy_(found.changing, list(changing))
            if any(a() is not b for a, b in zip(found.copied, kept, strict=True)):
                torch._foreach_copy_(found.kept, list(kept))
                found.copied = tuple(map(weakref.ref, kept))
            record_all(found.kernels)
        found.replay()
        return found.result

    def _function(self, changing: Sequence[Tensor], kept: Sequence[Tensor]) -> Any:
        function = self._held()
        assert function is not None  # its owner calls
        return function(changing, kept)

    def _new(self, changing: Sequence[Tensor], kept: Sequence[Tensor]) -> _Recording:
        def blind(changing: Sequence[Tensor], kept: Sequence[Tensor]) -> Any:
            with unseen():
                return self._function(changing, kept)

        own = [t.clone(memory_format=torch.contiguous_format) for t in changing]
        own_kept = [t.clone(memory_format=torch.contiguous_format) for t in kept]
        with kernels_used() as used:
            replay, result = self._record(blind, own, own_kept)
        given = tuple(map(weakref.ref, kept))
        return _Recording(own, own_kept, given, replay, result, used)


class Recorder:
    """Records by CUDA, on one GPU; all recordings share one pool of memory, as they run one after
    the other.
    """

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream | None = None
        self._pool: Any = None
        self._graphs: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()

    def __call__(
        self, function: Function, changing: Sequence[Tensor], kept: Sequence[Tensor]
    ) -> tuple[Callable[[], None], Any]:
        """See Record. The function runs twice first: it may compile something at its first use."""
        device = changing[0].device
        with alone(device), torch.cuda.device(device):
            if self._stream is None:
                self._stream = torch.cuda.Stream()
            if not self._graphs:  # with its last graph a pool is gone
                self._pool = torch.cuda.graph_pool_handle()
            stream = torch.cuda.current_stream()
            self._stream.wait_stream(stream)
            with torch.cuda.stream(self._stream):
                for _ in range(2):
                    function(changing, kept)
            stream.wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # cuBLAS keeps its workspace for a stream: the recording's must be its own.
            torch._C._cuda_clearCublasWorkspaces()
            with torch.cuda.graph(
                graph, self._pool, self._stream, capture_error_mode="thread_local"
            ):
                result = function(changing, kept)
            torch._C._cuda_clearCublasWorkspaces()
            self._graphs.add(graph)
        return graph.replay, result
