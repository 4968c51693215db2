"""Runs of a pipeline: one at a time, each with a flag of its own that ends it.

A run belongs to the call that began it. A callback may call the pipeline again: that run is nested
in the callback's, in the same thread, and begins at once; calls from other threads wait for their
turn, first come, first served.
"""

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch

from ..cuda import alone
from ..errors import BusyError, CancelledError, RequestError

#: What `timeout` may be at most, in seconds: some 30 years.
MAX_TIMEOUT = 1e9


class Run:
    """One call's run. Hand one to a call, `pipe(..., run=run)`, to end that call from anywhere.

    settings: what the run goes by and its callback may look at, such as guidance_scale.
    """

    def __init__(self) -> None:
        self.settings: dict[str, Any] = {}
        self._jobs: tuple[weakref.ref[Any], ...] = ()
        self.interrupted = False
        self._used = False
        self._turn: threading.Condition | None = None

    def interrupt(self) -> None:
        """Ends the run after the step it is at; safe from any thread and before it has begun: a
        call that is still waiting, or comes later, raises CancelledError.
        """
        self.interrupted = True
        turn = self._turn
        if turn is not None:
            with turn:
                turn.notify_all()

    @property
    def jobs(self) -> tuple[Any, ...]:
        """Its pictures (pyengine.jobs.Job), from when they are prepared on, for as long as somebody
        else has them: a job knows its run, and a reference cycle would pin a job's memory until the
        collector runs.
        """
        jobs = (job() for job in self._jobs)
        return tuple(job for job in jobs if job is not None)

    @jobs.setter
    def jobs(self, jobs: Iterable[Any]) -> None:
        self._jobs = tuple(weakref.ref(job) for job in jobs)

    def _claim(self) -> None:
        if self._used:
            raise RequestError("run: expected a Run of its own for every call, given one twice")
        self._used = True


class Runs:
    """Who may run, who waits, and which run is meant by "the current one"."""

    def __init__(self) -> None:
        self._last: Run | None = None
        self._forget_others()
        _every.add(self)

    def _forget_others(self, owner: int | None = None) -> None:
        """Keeps only the runs of thread `owner`: after a fork there are no other threads."""
        kept = self._stack if owner is not None and self._owner == owner else []
        self._turn = threading.Condition()
        self._stack: list[Run] = kept
        self._owner: int | None = owner if kept else None
        self._waiting: list[tuple[int, Run]] = []

    @contextmanager
    def begin(
        self, run: Run, device: torch.device | None = None, timeout: float | None = None
    ) -> Iterator[Run]:
        """Within the block it is this run's turn.

        device: a GPU that nothing else may record on meanwhile. timeout: seconds to wait for the
        turn; None: as long as it takes. Raises BusyError when they are over, CancelledError where
        the run was interrupted before.
        """
        with self._turn:
            run._claim()
        with self.hold(run, device, timeout):
            yield run

    @contextmanager
    def hold(
        self, run: Run, device: torch.device | None = None, timeout: float | None = None
    ) -> Iterator[Run]:
        """As `begin`, for a run that takes more than one turn: others may come between."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with _alone(device, timeout):
            try:
                self._enter(run, deadline, timeout)
                yield run
            finally:
                self._leave(run)

    def _enter(self, run: Run, deadline: float | None, timeout: float | None) -> None:
        me = threading.get_ident()
        with self._turn:
            run._turn = self._turn
            if self._owner != me:
                self._waiting.append((me, run))
                while self._owner is not None or self._waiting[0][1] is not run:
                    left = None if deadline is None else deadline - time.monotonic()
                    if run.interrupted or (left is not None and left <= 0):
                        break
                    self._turn.wait(left)
            if run.interrupted:
                raise CancelledError("the call was interrupted before its run began")
            if self._owner != me:
                if self._owner is not None or self._waiting[0][1] is not run:
                    raise _busy(timeout)
                self._waiting.pop(0)
                self._owner = me
            self._stack.append(run)

    def _leave(self, run: Run) -> None:
        with self._turn:
            self._waiting = [entry for entry in self._waiting if entry[1] is not run]
            if run in self._stack:
                self._stack.remove(run)
                if run.settings:
                    self._last = run
                if not self._stack:
                    self._owner = None
            self._turn.notify_all()

    def interrupt(self) -> None:
        """Ends the calling thread's innermost run, also one that still waits; where it has none,
        the run in progress and those nested in it.
        """
        me = threading.get_ident()
        with self._turn:
            own = [run for thread, run in self._waiting if thread == me]
            if self._owner == me:
                own = self._stack[-1:]
            for run in own or self._stack:
                run.interrupted = True
            self._turn.notify_all()

    def current(self) -> Run | None:
        """The innermost run in progress, else the last that was."""
        with self._turn:
            return self._stack[-1] if self._stack else self._last

    def in_progress(self) -> Run | None:
        with self._turn:
            return self._stack[-1] if self._stack else None


def _busy(timeout: float | None) -> BusyError:
    return BusyError(
        f"timeout: the pipeline was still at work for another call after {timeout:g} s"
    )


@contextmanager
def _alone(device: torch.device | None, timeout: float | None) -> Iterator[None]:
    """cuda.alone, which waits for `timeout` seconds at most."""
    lock: Any = contextlib.nullcontext() if device is None else alone(device)
    if timeout is None or not hasattr(lock, "acquire"):
        with lock:
            yield
        return
    if not lock.acquire(timeout=timeout):
        raise _busy(timeout)
    try:
        yield
    finally:
        lock.release()


#: All there are: in a forked child, runs of threads that it does not have would never end.
_every: weakref.WeakSet[Runs] = weakref.WeakSet()


def _after_fork() -> None:
    for runs in list(_every):
        runs._forget_others(threading.get_ident())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Running:
    """Base of all pipelines: one run at a time, that can be ended; no copies."""

    source: str

    def __init__(self) -> None:
        self._runs = Runs()

    def interrupt(self) -> None:
        """Ends a run after the step or token it is at; safe from any thread and signal handlers.

        In a callback: the run that the callback belongs to, and not one around it. From elsewhere:
        the run in progress, with those nested in it; calls that wait go on. To end one call out of
        several give it a Run of its own: pipe(..., run=run), run.interrupt().
        """
        self._runs.interrupt()

    @property
    def _interrupt(self) -> bool:
        """Whether the current run was interrupted; diffusers' callbacks set it to True."""
        run = self._runs.in_progress()
        return run is not None and run.interrupted

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        if value:
            self._runs.interrupt()
        elif (run := self._runs.in_progress()) is not None:
            run.interrupted = False

    def _no_copies(self, *_: Any) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} cannot be pickled or copied: its weights lie packed in this"
            f" process's memory; load it where it is needed: pyengine.from_pretrained("
            f"{getattr(self, 'source', '')!r})"
        )

    __reduce_ex__ = __copy__ = __deepcopy__ = _no_copies
