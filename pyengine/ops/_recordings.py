"""Whole networks without the Python between their kernels: noted once for each shape.

What Python does around a kernel takes some 0.1 ms, of a small U-Net's time a fifth. The second
evaluation with tensors of some shapes therefore notes what is called in pyengine._core, with all
arguments, as `_replay` does for a token; those after it call that in the same memory: the same
kernels, so the same bits.
"""

import threading
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from . import _core, _memory
from ._replay import Kernels, suits

#: Pixels of all pictures, from which the kernels hide what Python does between them, and the second
#: set of activations that a recording needs is not worth its memory.
MOST_PIXELS = 4096
#: Of one network: how many shapes are kept, each with some 300 KB of arguments; the one that was
#: not used for the longest time goes first.
KEPT = 16

#: A tensor, or a tuple of them.
Result = TypeVar("Result", Tensor, tuple[Tensor, Tensor])
#: function(x, changing, kept), made by kernels alone.
Function = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor]], Result]


class Recordings:
    """What a network's kernels are, for each shape of what it is given; any thread may use it, a
    second one at the same time calls the function itself.
    """

    def __init__(self) -> None:
        self._known: dict[Any, _Recording | None] = {}
        self.arena = _memory.Arena(replayed=True)
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["Recordings"], tuple[()]]:
        """A copy has recorded nothing: it has other weights."""
        return Recordings, ()

    def __call__(
        self,
        network: nn.Module,
        function: Function[Result],
        x: Tensor,
        changing: Sequence[Tensor],
        kept: Sequence[Tensor] = (),
        which: Hashable = None,
    ) -> Result:
        """function(x, changing, kept), in memory of its own.

        The function is called itself where x is large or not on a CPU, where gradients may be
        wanted or a backend is forced, where a part of the network has hooks, and where torch
        computes anything in it.

        Args:
            network: whose parameters and buffers the function reads.
            function: reads x, changing, kept and the network, and decides nothing by any contents.
            x: [N, H, W, C], which changes from call to call.
            changing: tensors that change as x does.
            kept: tensors that stay for many calls, not written to in between.
            which: of several functions.
        """
        small = x.dim() == 4 and x[..., 0].numel() <= MOST_PIXELS
        if not small or not suits(x) or not self._lock.acquire(blocking=False):
            return function(x, changing, kept)
        try:
            return self._locked(network, function, x, changing, kept, which)
        finally:
            self._lock.release()

    def _locked(
        self,
        network: nn.Module,
        function: Function[Result],
        x: Tensor,
        changing: Sequence[Tensor],
        kept: Sequence[Tensor],
        which: Hashable,
    ) -> Result:
        shapes = tuple((t.shape, t.dtype) for t in (x, *changing, *kept))
        key = (which, shapes, len(kept), torch.get_num_threads(), _core.isa())
        if key not in self._known:  # a shape that comes once is not recorded
            if len(self._known) >= KEPT:
                del self._known[next(iter(self._known))]
            self._known[key] = None
            return function(x, changing, kept)
        recording = self._known[key] = self._known.pop(key)  # the last to go
        if recording is None or not recording.holds():
            if _has_hooks(network):
                return function(x, changing, kept)
            recording = self._known[key] = _Recording(self.arena, network)
            return recording.note(function, x, changing, kept)
        y = recording.repeat(x, changing, kept) if recording.complete else None
        return function(x, changing, kept) if y is None else y


class _Recording:
    """The kernels of one evaluation, the memory they work in and the weights they read."""

    def __init__(self, arena: _memory.Arena, network: nn.Module):
        self.kernels = Kernels(arena)
        modules = list(network.modules())
        # Where each part of the network was found, so that one which took its place is noticed.
        self.parts = [
            (owner, name, part)
            for module in modules
            for owner in (module._modules, module._parameters, module._buffers)
            for name, part in owner.items()
        ]
        self.hooks = [hooks for module in modules for hooks in _hooks_of(module)]

    def holds(self) -> bool:
        """Whether the network is what it was, and nobody wants to be told of its parts."""
        return all(owner.get(name) is part for owner, name, part in self.parts) and not any(
            self.hooks
        )

    @property
    def complete(self) -> bool:
        return self.kernels.complete

    @torch.inference_mode(False)
    @torch.no_grad()
    def note(
        self,
        function: Function[Result],
        x: Tensor,
        changing: Sequence[Tensor],
        kept: Sequence[Tensor],
    ) -> Result:
        """Runs the function once, noting."""
        self.x = _own(x)
        self.changing, self.kept = list(map(_own, changing)), list(map(_own, kept))
        self.given = list(map(weakref.ref, kept))  # what `self.kept` holds the values of
        self.y: Any = self.kernels.note(lambda: function(self.x, self.changing, self.kept))
        y: Result = _copies(self.y)
        if not self.complete:  # it is never repeated
            del self.x, self.changing, self.kept, self.given, self.y
        return y

    def repeat(self, x: Tensor, changing: Sequence[Tensor], kept: Sequence[Tensor]) -> Any:
        """The function's result for other tensors; None where a kernel refuses."""
        self.x.copy_(x)
        for own, tensor in zip(self.changing, changing, strict=True):
            own.copy_(tensor)
        for i, tensor in enumerate(kept):
            if self.given[i]() is not tensor:
                self.kept[i].copy_(tensor)
                self.given[i] = weakref.ref(tensor)
        return _copies(self.y) if self.kernels.repeat() else None


def _copies(y: Any) -> Any:
    return tuple(t.clone() for t in y) if isinstance(y, tuple) else y.clone()


def _own(tensor: Tensor) -> Tensor:
    return tensor.clone(memory_format=torch.contiguous_format)


def _hooks_of(module: nn.Module) -> tuple[Any, ...]:
    return module._forward_hooks, module._forward_pre_hooks


def _has_hooks(network: nn.Module) -> bool:
    return any(any(_hooks_of(module)) for module in network.modules())
