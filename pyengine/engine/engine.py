"""An engine: models, a queue of requests, and the thread that runs them."""

import asyncio
import os
import threading
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ..errors import RequestError, UnavailableError
from ..jobs import checks
from ..jobs.output import UNHEARD
from ..pipelines.base import Pipeline
from ..pipelines.loading import from_pretrained
from ..weights.text import did_you_mean
from . import estimates
from .costs import Costs
from .driver import Driver
from .job import EngineJob
from .memory import read_size
from .stages import Stages

#: Seconds that an evaluation of several pictures may take.
LONGEST_STEP = 0.25
MAX_WAITING = 1_000_000
MAX_PREVIEWS = 1000
MAX_PRIORITY = 10


class Engine:
    """Requests of many callers on several models, as many of them together as is fast.

    with pyengine.Engine("emoji", "emoji-ar", max_waiting=64) as engine:
        job = engine.submit(prompt="a red heart", seed=1)
        picture = job.result().images[0]

    A picture has the bits of the pipeline's call. Requests join and leave running batches between
    two steps; models and sizes share the device equally. Leaving the block drains: jobs that were
    taken are done, no more are taken; Ctrl-C drains too, a second one stops.
    """

    def __init__(
        self,
        *models: Any,
        max_waiting: int = 64,
        memory: int | str | None = None,
        longest_step: float = LONGEST_STEP,
        _clock: Callable[[], float] = time.monotonic,
        _thread: bool = True,
        **loading: Any,
    ):
        """Loads the models, and starts the thread that runs their jobs.

        Args:
            models: as pyengine.from_pretrained takes them, or its pipelines; the first is used
                where a request names none.
            max_waiting: jobs that may wait.
            memory: bytes, or "8GB", that the pictures of an evaluation may take, beside the
                weights; None: what the device has.
            longest_step: seconds that an evaluation of several pictures may take: how long a new
                request waits at most.
            loading: keywords of from_pretrained, for all that are loaded.
        """
        self.max_waiting = checks.integer("max_waiting", max_waiting, 1, MAX_WAITING)
        limit = None if memory is None else read_size("memory", memory)
        longest = checks.real("longest_step", longest_step, 1e-3, 1e6)
        if not models:
            raise RequestError("models: expected one at least, given none")
        names = [
            model.source if isinstance(model, Pipeline) else os.fspath(model) for model in models
        ]
        if len(set(names)) != len(names):
            raise RequestError(f"models: expected each once, given {', '.join(names)}")
        self._pipes: dict[str, Any] = {
            name: model if isinstance(model, Pipeline) else from_pretrained(model, **loading)
            for name, model in zip(names, models, strict=True)
        }
        self._process = os.getpid()
        self._driver = Driver(Costs(longest, limit), self.max_waiting, _clock)
        self._thread = threading.Thread(
            target=_run, args=(self._driver,), name="pyengine-engine", daemon=True
        )
        # Where nobody closes it: when it is collected, and at the end of the process, whose
        # threads may not be within a kernel then.
        self._finalizer = weakref.finalize(self, _stop, self._driver, self._thread, self._process)
        if _thread:
            self._thread.start()

    @property
    def models(self) -> tuple[str, ...]:
        """Names of its models."""
        return tuple(self._pipes)

    def pipeline(self, model: str | None = None) -> Any:
        """The pipeline of a model; of the first where none is named."""
        return self._find(model)[1]

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._driver.waiting)

    @property
    def running(self) -> int:
        """Jobs that were started and have not ended."""
        return len(self._driver.running)

    @property
    def remaining(self) -> float:
        """Seconds that the jobs that it has are likely to take from now on, all together."""
        return estimates.remaining(self._driver)

    def submit(
        self,
        model: Any = None,
        *,
        priority: int = 0,
        deadline: float | None = None,
        previews: int = 0,
        quick_previews: bool = False,
        share: str = "",
        check: Callable[[Any], None] | None = None,
        **call: Any,
    ) -> EngineJob:
        """A job for a call of the model, at once.

        What the call warns of is in `job.report.warnings`. The retry_after of what refuses a job
        for want of room or time is when to come again, in seconds.

        Args:
            model: one of the engine's; None: the first.
            priority: -10 to 10; one more is as good as ten seconds earlier.
            deadline: seconds from now within which the job must be done.
            previews: how many times the pictures are shown on the way, decoded.
            quick_previews: whether they are shown coarsely instead, for next to nothing, where the
                model has latents.
            share: on whose behalf; a job goes behind those of others by as many seconds as its own
                share has work that is not done.
            check: is called with the checked request before there is a job; what it raises is
                raised.
            call: arguments of the pipeline's call; a callback is not among them, since events say
                what it would.

        Raises:
            RequestError: for an argument that cannot be used.
            QueueFullError: where `max_waiting` jobs wait.
            DeadlineError: where the deadline is sooner than the job is likely to be done.
            TooLongError: where it is sooner than it would be with nothing beside it.
            UnavailableError: in a process that was forked after the engine was made.
        """
        if os.getpid() != self._process:
            raise UnavailableError(
                "engine: expected the process that made it, which is another's"
                " parent; make an engine after the fork"
            )
        name, pipe = self._find(model)
        priority = checks.integer("priority", priority, -MAX_PRIORITY, MAX_PRIORITY)
        previews = checks.integer("previews", previews, 0, MAX_PREVIEWS)
        if not isinstance(quick_previews, bool):
            raise checks.refuse("quick_previews", "True or False", quick_previews)
        if deadline is not None:
            deadline = checks.real("deadline", deadline, 1e-9, 1e9)
        if call.get("callback_on_step_end") is not None:
            raise RequestError("callback_on_step_end: expected none; follow the job's events")
        request = pipe.request(**call)
        if check is not None:
            check(request)
        stages = Stages(name, pipe, request)
        stages.quick = quick_previews
        job = EngineJob(
            self._driver,
            name,
            stages,
            priority=priority,
            deadline=deadline,
            previews=previews,
            share=share,
        )
        self._driver.submit(job)
        return job

    def check_room(self) -> None:
        """Raises QueueFullError where `submit` would for whatever job: before one is made."""
        self._driver.check_room()

    def limit_memory(self, limit: int | str | None) -> None:
        """Sets how much the pictures of an evaluation may take, from the next one on.

        Args:
            limit: as memory of Engine.
        """
        self._driver.costs.memory = None if limit is None else read_size("memory", limit)

    @property
    def closed(self) -> bool:
        """Whether it takes no more jobs."""
        return self._driver.closing

    def waiting_of(self, share: str) -> int:
        """Jobs of one share in the queue."""
        return sum(entry.job.share == share for entry in list(self._driver.waiting))

    def observe(self, observer: Callable[[str, int, float], None]) -> None:
        """Has `observer(model, pictures, seconds)` called after every evaluation, in the engine's
        thread, which it must not hold up.
        """
        self._driver.observers.append(observer)

    def _find(self, model: Any) -> tuple[str, Any]:
        if model is None:
            return next(iter(self._pipes.items()))
        for name, pipe in self._pipes.items():
            if model is pipe or (isinstance(model, str | os.PathLike) and os.fspath(model) == name):
                return name, pipe
        names = ", ".join(self._pipes)
        near = did_you_mean(model, self._pipes) if isinstance(model, str) else ""
        raise RequestError(f"model: expected one of {names}, given {str(model)[:100]!r}{near}")

    # --- its end ----------------------------------------------------------------------------------

    def drain(self) -> None:
        """Takes no more jobs, and returns when those that were taken have ended. In a forked child,
        which has none, it does nothing.
        """
        self._close(stop=False)

    def stop(self) -> None:
        """Takes no more jobs, cancels those that there are, and returns when they have ended."""
        self._close(stop=True)

    def _close(self, stop: bool) -> None:
        if os.getpid() != self._process:
            return
        self._driver.close(stop=stop)
        _wait(self._driver, self._thread)

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.drain()
        except KeyboardInterrupt:
            self.stop()
            raise

    async def __aenter__(self) -> "Engine":
        return self

    async def __aexit__(self, *_: Any) -> None:
        try:
            await asyncio.to_thread(self.drain)
        except BaseException:
            self._driver.close(stop=True)
            raise


def _run(driver: Driver) -> None:
    """The engine's thread."""
    UNHEARD.set(True)
    driver.run()


def _stop(driver: Driver, thread: threading.Thread, process: int) -> None:
    if os.getpid() != process:  # a forked child, which has neither the thread nor its jobs
        return
    driver.close(stop=True)
    _wait(driver, thread)


def _wait(driver: Driver, thread: threading.Thread) -> None:
    """Until the driver's thread has ended."""
    if thread.ident is not None and thread is not threading.current_thread():
        driver.ended.wait()
        thread.join()
