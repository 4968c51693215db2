"""Jobs that outlive their requests, and are kept for a time once they have ended."""

import asyncio
import contextlib
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ..errors import PyengineError
from ..jobs import checks
from . import pictures
from .auth import Caller
from .drawing import Drawing
from .errors import Refusal, openai_body, refusal_of

if TYPE_CHECKING:
    from .openai.fields import Asked
    from .server import Server

#: Characters of an idempotency key.
KEY_LENGTH = 255
#: Events of a job that are kept for who comes later; of more, the oldest are forgotten.
MAX_EVENTS = 2000
#: Seconds that a cancelled job is waited for: a stage of it.
PATIENCE = 5.0
STATUS = {
    "queued": "queued",
    "started": "running",
    "done": "succeeded",
    "failed": "failed",
    "cancelled": "cancelled",
}


class KeptJob:
    """A job with all that is told of it. Of the event loop's thread alone."""

    def __init__(self, caller: Caller, drawing: Drawing, asked: "Asked", node: str = ""):
        self.id = f"job_{node}{'.' if node else ''}{secrets.token_urlsafe(18)}"
        self.caller, self.drawing, self.asked = caller.name, drawing, asked
        self.status, self.created = "queued", time.time()
        #: (id, type, data) of its events, and the bytes that it is kept in.
        self.events: list[tuple[int, str, dict[str, Any]]] = []
        self.bytes, self.expires = 0, 0.0
        self._now: dict[str, Any] = {}
        self._count = 0
        self._result: dict[str, Any] | None = None
        self._error: dict[str, Any] | None = None
        self._news, self._ended = asyncio.Event(), asyncio.Event()

    @property
    def ended(self) -> bool:
        return self.status not in ("queued", "running")

    async def cancel(self) -> None:
        """Returns when it has ended, or soon."""
        self.drawing.job.cancel()
        with contextlib.suppress(TimeoutError, asyncio.TimeoutError):
            await asyncio.wait_for(self._ended.wait(), PATIENCE)

    def told(self) -> dict[str, Any]:
        """What a client is told of it."""
        found = {
            "id": self.id,
            "object": "job",
            "status": self.status,
            "model": self.drawing.model,
            "created_at": int(self.created),
            "expires_at": int(self.expires) if self.ended else None,
            "place": self._now.get("place") if self.status == "queued" else None,
            "step": self._now.get("step"),
            "steps": self._now.get("steps"),
            "seeds": self.drawing.seeds,
        }
        for name, value in (("result", self._result), ("error", self._error)):
            if value is not None:
                found[name] = value
        return found

    async def follow(self, last: int = 0) -> AsyncIterator[tuple[int, str, dict[str, Any]]]:
        """Its events behind the one of that id, as they come; it ends with the job."""
        while True:
            news = self._news  # of before the look: what comes meanwhile ends the waiting at once
            fresh = [event for event in self.events if event[0] > last]
            for number, name, data in fresh:
                yield number, name, data
                last = number
            if not fresh:
                if self.ended:
                    return
                await news.wait()

    # --- what happens -----------------------------------------------------------------------------

    async def run(self, server: "Server") -> None:
        """Takes note of what happens, until the job has ended."""
        try:
            async for event in self.drawing.job:
                if event.type == "preview":
                    data = await server.in_thread(_shown, event)
                elif event.type == "done":
                    self._result = await server.in_thread(_result, self, event.output)
                    data = {"result": self._result}
                elif event.error is not None:
                    data = self._failed(server.told(event.error))
                else:
                    named = {"place": event.place, "step": event.step, "steps": event.steps}
                    data = {name: value for name, value in named.items() if value is not None}
                self._add(event.type, data, server.settings.keep)
        except Exception as e:
            self._add("failed", self._failed(e), server.settings.keep)
        finally:
            self.drawing.job.cancel()  # nothing, where it has ended

    def _failed(self, error: Exception) -> dict[str, Any]:
        if not isinstance(error, PyengineError):
            from .server import log

            log.error("job failed", exc_info=error, extra={"fields": {"job": self.id}})
        self._error = openai_body(refusal_of(error))["error"]
        return {"error": self._error}

    def _add(self, name: str, data: dict[str, Any], keep: float) -> None:
        self.status = STATUS.get(name, self.status)
        self._now |= {key: value for key, value in data.items() if not isinstance(value, list)}
        if self.ended:
            self.expires = time.time() + keep
            self._ended.set()
        self._count += 1
        self.events.append((self._count, name, data))
        if len(self.events) > MAX_EVENTS:
            del self.events[0]
        self.bytes += sum(len(text) for text in _texts(data))
        news, self._news = self._news, asyncio.Event()
        news.set()


def _shown(event: Any) -> dict[str, Any]:
    """A preview's pictures, as PNG in base64."""
    files = [pictures.encoded(image, None) for image in event.images]
    return {
        "step": event.step,
        "steps": event.steps,
        "images": [pictures.base64_of(data) for data in files],
    }


def _result(job: KeptJob, output: Any) -> dict[str, Any]:
    from .openai.images import answer_of

    return answer_of(job.drawing, output, job.asked)


def _texts(data: dict[str, Any]) -> list[str]:
    """The long ones: pictures."""
    found = [text for text in data.get("images", ()) if isinstance(text, str)]
    items = (data.get("result") or {}).get("data", ())
    return found + [text for item in items for text in item.values() if isinstance(text, str)]


class Jobs:
    """All jobs that are kept. Of the event loop's thread alone."""

    def __init__(self, server: "Server"):
        self._server = server
        self._jobs: OrderedDict[str, KeptJob] = OrderedDict()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        #: By caller and idempotency key: the body's digest, and the job that is made or being made.
        self._keys: dict[tuple[str, str], tuple[str, asyncio.Future[KeptJob]]] = {}

    async def create(
        self, caller: Caller, asked: "Asked", previews: Any = None, quick_previews: Any = None
    ) -> KeptJob:
        """Raises what Drawings.submit raises."""
        server = self._server
        if previews is None:
            previews = asked.partial_images
        previews = checks.integer("previews", previews, 0, server.settings.max_previews)
        context = server.tracing.context()
        drawing = await server.in_thread(
            lambda: server.drawings.submit(
                caller,
                asked.model,
                asked.call,
                previews=previews,
                deadline=asked.deadline,
                names=asked.names,
                context=context,
                quick_previews=quick_previews,
            )
        )
        job = KeptJob(caller, drawing, asked, server.settings.node)
        self._jobs[job.id] = job
        task = self._tasks[job.id] = asyncio.create_task(job.run(server))
        task.add_done_callback(lambda _: self._tasks.pop(job.id, None))
        self.forget()
        return job

    async def once(
        self, caller: Caller, key: str | None, digest: str, make: Callable[[], Awaitable[KeptJob]]
    ) -> tuple[KeptJob, bool]:
        """The job of an idempotency key, and whether it was there before."""
        if key is None:
            return await make(), False
        self.forget()
        name = caller.name, key
        if name in self._keys:
            before, found = self._keys[name]
            if before != digest:
                raise Refusal(
                    409,
                    "Idempotency-Key: it came with another body before",
                    "Idempotency-Key",
                    "idempotency_mismatch",
                    again=False,
                )
            return await asyncio.shield(found), True
        future: asyncio.Future[KeptJob] = asyncio.get_running_loop().create_future()
        self._keys[name] = digest, future
        try:
            job = await make()
        except BaseException as e:
            del self._keys[name]
            future.set_exception(e if isinstance(e, Exception) else Refusal(409, "cancelled"))
            future.exception()  # who else waits gets it; nobody may
            raise
        future.set_result(job)
        return job, False

    def find(self, caller: Caller, job_id: str) -> KeptJob:
        """Raises Refusal (404) where the caller has no such job."""
        self.forget()
        job = self._jobs.get(job_id)
        if job is None or job.caller != caller.name:
            raise Refusal(404, "job: there is none of that id", "job_id", "job_not_found")
        return job

    def forget(self) -> None:
        """Lets go of jobs whose time is over, and of the oldest that have ended where there are too
        many.
        """
        now, settings = time.time(), self._server.settings
        size = sum(job.bytes for job in self._jobs.values())
        ended = [job for job in self._jobs.values() if job.ended]
        over = len(self._jobs) - settings.max_kept
        for i, job in enumerate(sorted(ended, key=lambda job: job.expires)):
            if job.expires <= now or i < over or size > settings.max_kept_bytes:
                size -= job.bytes
                del self._jobs[job.id]
        for name, (_, made) in list(self._keys.items()):
            if made.done() and made.result().id not in self._jobs:
                del self._keys[name]

    async def close(self) -> None:
        """Cancels the jobs that have not ended."""
        tasks = list(self._tasks.values())
        for job in self._jobs.values():
            job.drawing.job.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
