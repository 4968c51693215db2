"""Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .watch import until_gone

#: A line that clients skip: proxies do not take the stream for dead.
PING = b": ping\n\n"
#: How many times `idle` a client may take for one event, which may be megabytes.
LONGEST = 10


def event(data: Any, name: str | None = None, number: int | None = None) -> bytes:
    """One event: its data as JSON, its name and its id."""
    head = f"id: {number}\n" if number is not None else ""
    head += f"event: {name}\n" if name is not None else ""
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


class EventStream(Response):
    """Sends what a generator yields; where nothing comes for `ping` seconds, a sign of life.

    The generator is closed when the client goes, or has not taken an event after `longest` seconds:
    whoever runs the app may close silent connections earlier.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], ping: float, idle: float):
        super().__init__(headers={"x-accel-buffering": "no", "cache-control": "no-store"})
        del self.headers["content-length"]
        self.events, self.ping, self.longest = events, ping, LONGEST * idle
        self.background: BackgroundTask | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(until_gone(Request(scope, receive)))
        more: asyncio.Future[Any] | None = None
        try:
            start = {"type": "http.response.start", "status": self.status_code}
            await send({**start, "headers": self.raw_headers})
            more = asyncio.ensure_future(anext(self.events))
            while not gone.done():
                await asyncio.wait(
                    {more, gone}, timeout=self.ping, return_when=asyncio.FIRST_COMPLETED
                )
                if gone.done():
                    break
                piece = PING
                if more.done():
                    try:
                        piece = more.result()
                    except StopAsyncIteration:
                        await send({"type": "http.response.body", "body": b""})
                        break
                    more = asyncio.ensure_future(anext(self.events))
                body = {"type": "http.response.body", "body": piece, "more_body": True}
                await asyncio.wait_for(send(body), self.longest)
        except (TimeoutError, asyncio.TimeoutError):
            pass  # nobody reads: the connection is closed by whoever runs the app
        finally:
            tasks = [task for task in (gone, more) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.events.aclose()
