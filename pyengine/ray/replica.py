"""A replica: one engine, and the HTTP app over it, which requests reach through Ray."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from ..engine import Engine
from ..engine.memory import free_memory
from ..errors import UnavailableError
from ..serving import ServerSettings, create_app
from .needs import need
from .scaling import METRIC

#: Seconds that the app has to notice that nobody waits for its answer any more.
LEAVE = 1.0

#: What a replica yields: first an answer's status and headers and its own name, then bytes.
Head = tuple[int, list[tuple[bytes, bytes]], str]


class Replica:
    """The class behind the deployment. models: as Engine takes them; options: its keywords. parts:
    of the machine's free memory, where options tell of none.
    """

    def __init__(
        self,
        models: Sequence[str],
        options: Mapping[str, Any],
        settings: ServerSettings,
        parts: int = 1,
    ):
        self._name = _name()
        self._engine = Engine(*models, **options)
        if options.get("memory") is None and self._engine.pipeline().device.type == "cpu":
            self._engine.limit_memory(free_memory(parts))
        # Once for all replicas, by the front.
        self._app = create_app(self._engine, replace(settings, node=self._name, rate=0.0))
        self._life = AsyncExitStack()
        self._starting: asyncio.Task[Any] | None = None
        self._told = itertools.count(1)
        self._typical = 0.0

    async def answer(
        self, scope: dict[str, Any], body: bytes, *, to: str | None = None, key: str | None = None
    ) -> AsyncIterator[Head | bytes]:
        """The app's answer to a request: its Head, then bytes.

        scope: ASGI's, without what cannot be sent. to, key: see LeastWork. Cancelling it is what a
        client's leaving is to the app, whose job ends then.
        """
        await self._started()
        sent: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(1)
        gone, given = asyncio.Event(), False

        async def receive() -> dict[str, Any]:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            await gone.wait()
            return {"type": "http.disconnect"}

        async def run() -> None:
            try:
                await self._app({**scope, "asgi": {"version": "3.0"}}, receive, sent.put)  # type: ignore[arg-type]
            finally:
                if not gone.is_set():
                    await sent.put(None)

        task = asyncio.create_task(run())
        try:
            while (message := await sent.get()) is not None:
                if message["type"] == "http.response.start":
                    headers = [(bytes(k), bytes(v)) for k, v in message["headers"]]
                    yield message["status"], headers, self._name
                elif message.get("body"):
                    yield bytes(message["body"])
            await task
        finally:
            gone.set()
            await _ended(task, sent)

    async def _started(self) -> None:
        """Once the app's lifespan has begun."""
        if self._starting is None:
            context = self._app.router.lifespan_context(self._app)
            self._starting = asyncio.create_task(self._life.enter_async_context(context))
        await asyncio.shield(self._starting)

    # --- what Ray asks ----------------------------------------------------------------------------

    def record_routing_stats(self) -> dict[str, float]:
        """For LeastWork: seconds left, and of a job; told: how many times this was asked."""
        seconds, jobs = self._engine.remaining, self._engine.waiting + self._engine.running
        if jobs:
            self._typical = seconds / jobs
        typical = {"typical": self._typical} if self._typical else {}
        return {"told": next(self._told), "seconds": seconds, **typical}

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For Scale."""
        return {METRIC: self._engine.remaining}

    async def check_health(self) -> None:
        """Raises where the engine takes no more jobs: Ray starts another replica then. Ray asks
        before the first request, too: the models have drawn a picture then.
        """
        await self._started()
        if self._engine.closed:
            raise UnavailableError("engine: it has been closed and takes no more jobs")

    def __del__(self) -> None:
        """Called by Ray as the replica ends, once its requests have been answered."""
        if hasattr(self, "_engine"):
            self._engine.stop()


def _name() -> str:
    """This replica's name; "" where Ray runs none."""
    serve = need("ray.serve")
    try:
        return str(serve.get_replica_context().replica_id.unique_id)
    except need("ray.serve.exceptions").RayServeException:
        return ""


async def _ended(task: "asyncio.Task[None]", sent: "asyncio.Queue[Any]") -> None:
    """Waits for an app whose answer nobody reads any more, for a while."""
    deadline = asyncio.get_running_loop().time() + LEAVE
    while not task.done():
        while not sent.empty():
            sent.get_nowait()
        if asyncio.get_running_loop().time() > deadline:
            task.cancel()
        await asyncio.wait([task], timeout=0.02)
    if not task.cancelled():
        task.exception()
