"""What a caller has set in torch and NumPy must not change a picture.

Autocast, the default dtype and device, reduced precision of float32 products, flushed denormals,
inference mode and NumPy's error handling belong to the program that calls us; our results are the
same bits under all of them. `inference` wraps every public call that computes: within it all these
have torch's own defaults, afterwards they are the caller's again. Code of the caller's that we call
(callbacks) runs under `outside`, in the state that the caller had.

Not touched: the number of threads, deterministic algorithms (our results are deterministic either
way), grad mode outside of these calls, generators.
"""

import functools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

P = ParamSpec("P")
R = TypeVar("R")

#: Products of float32 in float32: no TF32 (on GPUs), no bfloat16 (on CPUs that have it).
EXACT = "ieee"
_SMALLEST = 5e-324  # a denormal float64


@dataclass(frozen=True)
class Setting:
    """A setting of the whole process. same: whether a value gives the bits of `ours`."""

    get: Callable[[], Any]
    set: Callable[[Any], None]
    ours: Any
    same: Callable[[Any], bool]


def _plain(get: Callable[[], Any], put: Callable[[Any], None], ours: Any) -> Setting:
    return Setting(get, put, ours, lambda value: value == ours)


def _precision(owner: Any, parent: Any) -> Setting:
    """`owner.fp32_precision` of torch 2.9 and newer, which reads as its parent's where it is none
    of its own; it is given back so.
    """

    def restore(value: str) -> None:
        owner.fp32_precision = "none"
        if owner.fp32_precision != value:
            owner.fp32_precision = value

    return Setting(
        lambda: owner.fp32_precision,
        lambda value: restore(value) if value != EXACT else setattr(owner, "fp32_precision", EXACT),
        EXACT,
        lambda value: value in ("none", EXACT),
    )


def _precisions() -> list[Setting]:
    backends: Any = torch.backends
    if not hasattr(backends, "fp32_precision"):
        return [
            _plain(
                torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"
            )
        ]
    owners = [backends.mkldnn.matmul, backends.mkldnn.conv, backends.cuda.matmul]
    return [_precision(owner, backends) for owner in owners]


SETTINGS = (
    _plain(torch.get_default_dtype, torch.set_default_dtype, torch.float32),
    _plain(torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled, True),
    *_precisions(),
)


class _Process:
    """The settings of the whole process while any thread is inside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._theirs: dict[Setting, Any] = {}

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            for setting in SETTINGS:
                value = setting.get()
                if not setting.same(value):
                    self._theirs[setting] = value
                    setting.set(setting.ours)

    def alone(self, inside: bool) -> None:
        """No other thread is left."""
        self._lock = threading.Lock()
        if self._inside and not inside:
            self._inside = 1
            self.leave()
        self._inside = int(inside)

    def leave(self) -> None:
        """The last thread gives back what was changed, unless somebody has changed it since."""
        with self._lock:
            self._inside -= 1
            if self._inside:
                return
            for setting, value in self._theirs.items():
                if setting.same(setting.get()):
                    setting.set(value)
            self._theirs.clear()


class _Thread(threading.local):
    """The settings of one thread. inside: whether it is in a call of ours."""

    inside = False
    autocast: tuple[str, ...] = ()
    flushes = False
    contexts: tuple[AbstractContextManager[Any], ...] = ()

    def enter(self) -> None:
        _process.enter()
        self.inside = True
        self.autocast = tuple(d for d in ("cpu", "cuda") if torch.is_autocast_enabled(d))
        for device in self.autocast:
            torch.set_autocast_enabled(device, False)
        # The multiplication is the only way to ask; the factor keeps it from being folded away.
        self.flushes = _SMALLEST * float(self.inside) == 0.0
        if self.flushes:
            torch.set_flush_denormal(False)
        # Without torch functions there is neither a default device nor a mode of the caller's.
        self.contexts = (
            torch._C.DisableTorchFunction(),
            np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"),
        )
        for context in self.contexts:
            context.__enter__()

    def leave(self) -> None:
        for context in reversed(self.contexts):
            context.__exit__(None, None, None)
        self.contexts = ()
        if self.flushes:
            torch.set_flush_denormal(True)
        for device in self.autocast:
            torch.set_autocast_enabled(device, True)
        self.inside = False
        _process.leave()


_process = _Process()
_thread = _Thread()


def _after_fork() -> None:
    """In the child there is only the thread that forked."""
    _process.alone(_thread.inside)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def own_state() -> Iterator[None]:
    """Within the block this thread computes as if the caller had set nothing."""
    if _thread.inside:
        yield
        return
    _thread.enter()
    try:
        yield
    finally:
        _thread.leave()


@contextmanager
def outside() -> Iterator[None]:
    """Within the block, in the middle of a call of ours, the caller's own state holds again, and
    what is set there stays set after the call. (What torch has one of for all threads changes only
    where no other thread is in a call of ours.)
    """
    if not _thread.inside:
        yield
        return
    _thread.leave()
    try:
        yield
    finally:
        _thread.enter()


_with_gradients: ContextVar[bool] = ContextVar("pyengine_with_gradients", default=False)


@contextmanager
def differentiable() -> Iterator[None]:
    """Within the block models keep what torch's autograd needs of tensors that require a gradient.

    with differentiable():
        noise = unet(x.requires_grad_(), 500, text).sample
        (gradient,) = torch.autograd.grad(noise.square().sum(), x)

    For guidance by gradients (a classifier's, CLIP's). Ops run on their specifications where a
    gradient goes through, which is slow and takes the memory of all activations; what no gradient
    goes through is computed as ever, to the same bits. Weights are constants unless they are told
    `requires_grad_()` before they are packed. It holds for this thread (context) alone, also within
    calls of ours such as callbacks; afterwards all is as before.
    """
    token = _with_gradients.set(True)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        _with_gradients.reset(token)


def inference(function: Callable[P, R]) -> Callable[P, R]:
    """The function in our own state and, but for `differentiable`, without gradients; what it makes
    are ordinary tensors.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if _thread.inside:
            return function(*args, **kwargs)
        if _with_gradients.get():
            with own_state():
                return function(*args, **kwargs)
        with own_state(), torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return call
