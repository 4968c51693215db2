"""A request on its way through an engine, as its caller sees it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Generator
from copy import copy
from typing import Any, Protocol

from ..errors import BusyError, CancelledError, PyengineError
from ..jobs.output import Report
from .events import Event, EventLog, call_in
from .stages import Stages


class Owner(Protocol):
    """What a job needs of the engine that runs it."""

    def cancelled(self, job: "EngineJob") -> None:
        """The job's caller has no use for it any more."""

    def interrupted(self, job: "EngineJob") -> None:
        """The job's caller wants what there is of it."""


class EngineJob:
    """A request that an engine has taken: `result()`, `await job`, or `async for event in job`.

    model: the name of its model. priority, deadline, share: as submitted; deadline in seconds from
    then.
    report: how it is carried out, complete when the job is done. All is safe from any thread.
    """

    def __init__(
        self,
        owner: Owner,
        model: str,
        stages: Stages,
        *,
        priority: int = 0,
        deadline: float | None = None,
        previews: int = 0,
        share: str = "",
    ):
        self.model, self.share = model, share
        self.priority, self.deadline, self.previews = priority, deadline, previews
        self.report: Report = stages.report
        self.events = EventLog()
        #: Whether it ends with what there is.
        self.interrupted = False
        #: What the engine's thread works on; None when the job has ended.
        self.stages: Stages | None = stages
        self._owner, self._run = owner, stages.request.run
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._then: list[Callable[[], Any]] = []
        self._output: Any = None
        self._error: Exception | None = None

    # --- its caller's side ------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._ended.is_set()

    @property
    def times(self) -> dict[str, float]:
        """When its first event of each type came, in seconds of time.monotonic: "queued" when it
        was submitted.
        """
        return dict(self.events.times)

    def cancel(self) -> None:
        """Ends the job: at once where it waits, after the stage it is in where it runs. It does
        nothing to a job that has ended.
        """
        if not self.done:
            self._run.interrupt()
            self._owner.cancelled(self)

    def interrupt(self) -> None:
        """Ends the job as `cancel` does, but with what there is: the pictures as they are after
        the stage it is in; its report says that it was interrupted. A job that waits is cancelled.
        """
        if not self.done:
            self._owner.interrupted(self)

    def ask_preview(self, quick: bool = False) -> None:
        """Has the pictures shown after the next step, besides those `previews` that were asked for
        in the beginning; once, however often it is called meanwhile.

        Args:
            quick: see Engine.submit.
        """
        stages = self.stages
        if stages is not None:
            stages.asked = quick and stages.asked is not False

    def result(self, timeout: float | None = None) -> Any:
        """What the pipeline's call would return; raises what the call would raise.

        Args:
            timeout: seconds to wait; None: as long as it takes.

        Raises:
            CancelledError: where the job was cancelled.
            DeadlineError: where its deadline passed.
            BusyError: where it has not ended after `timeout` seconds, and goes on.
        """
        if not self._ended.wait(timeout):
            raise BusyError(f"timeout: the job was still at work after {timeout:g} s")
        return self._answer()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        self.when_done(lambda: call_in(loop, ended.set))
        await ended.wait()
        return self._answer()

    def when_done(self, call: Callable[[], Any]) -> None:
        """Has `call()` called once the job has ended, in whatever way.

        In the engine's thread, which it must not hold up; at once where the job has ended.
        """
        with self._lock:
            if not self.done:
                self._then.append(call)
                return
        call()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self.events.follow()

    def _answer(self) -> Any:
        if isinstance(self._error, PyengineError):
            raise copy(self._error)  # every caller's traceback is its own
        if self._error is not None:
            raise self._error
        return self._output

    # --- the engine's side ------------------------------------------------------------------------

    def succeed(self, output: Any) -> None:
        """Ends the job with its `output`; the engine does."""
        self._end(Event("done", output=output), output=output)

    def fail(self, error: Exception) -> None:
        """Ends the job with an `error`; the engine does."""
        self._run.interrupt()
        if isinstance(error, PyengineError):  # whose frames hold tensors, and which say it all
            error.__traceback__ = error.__cause__ = error.__context__ = None
        kind = "cancelled" if isinstance(error, CancelledError) else "failed"
        self._end(Event(kind, error=error), error=error)

    def _end(self, event: Event, output: Any = None, error: Exception | None = None) -> None:
        with self._lock:
            if self.done:
                return
            self._output, self._error, self.stages = output, error, None
            self._ended.set()
            self.events.add(event)
            then, self._then = self._then, []
        for call in then:
            call()
