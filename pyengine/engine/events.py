"""What happens to a job, as events that any thread and any event loop can follow."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

#: The types after which no event comes.
LAST = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Event:
    """Something that happened to a job.

    type: "queued" (place: its position in the queue, from 1; again whenever that changes while
    somebody follows), "started", "step" (step of steps: evaluations of the model that are done, the
    mean over the job's pictures), "preview" (images: the pictures as they are after that step),
    "done" (output: what the call returns), "failed" (error) or "cancelled" (error).
    """

    type: str
    place: int | None = None
    step: int | None = None
    steps: int | None = None
    images: Any = None
    output: Any = None
    error: Exception | None = None


class EventLog:
    """The events of one job. Whoever follows it, from whenever on, gets all of them in order; of
    the steps and previews that nobody followed, the last.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._events: list[Event] = []
        #: When the first event of each type came, in seconds of time.monotonic.
        self.times: dict[str, float] = {}
        self._followers: list[_Follower] = []

    @property
    def followed(self) -> bool:
        return bool(self._followers)

    def last(self, kind: str) -> Event | None:
        """The last event of that type that there was."""
        with self._lock:
            return next((event for event in self._events if event.type == kind), None)

    def add(self, event: Event) -> None:
        with self._lock:
            self.times.setdefault(event.type, time.monotonic())
            # For those who come later one of each type is enough, so that a job stays small.
            self._events = [e for e in self._events if e.type != event.type] + [event]
            self._followers = [f for f in self._followers if f.tell(event)]
            if event.type in LAST:
                self._followers = []

    async def follow(self) -> AsyncIterator[Event]:
        """All events, up to the last."""
        follower = _Follower(asyncio.get_running_loop())
        with self._lock:
            past = list(self._events)
            if not past or past[-1].type not in LAST:
                self._followers.append(follower)
        try:
            for event in past:
                yield event
                if event.type in LAST:
                    return
            while True:
                event = await follower.queue.get()
                yield event
                if event.type in LAST:
                    return
        finally:
            with self._lock:
                if follower in self._followers:
                    self._followers.remove(follower)


class _Follower:
    """A queue of an event loop, filled from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop):
        self._loop = loop
        self.queue: asyncio.Queue[Event] = asyncio.Queue()

    def tell(self, event: Event) -> bool:
        """Whether there still is a loop to tell."""
        return call_in(self._loop, lambda: self.queue.put_nowait(event))


def call_in(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> bool:
    """Calls in the loop's thread; False where the loop has been closed."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        return False
    return True
