"""A job whose client may go: then the job is cancelled."""

import asyncio
from typing import Any

from fastapi import Request

from ..engine import EngineJob
from ..errors import PyengineError
from .errors import GONE, Refusal
from .server import server_of


async def until_gone(request: Request) -> None:
    """Returns when the client has gone; its request's body was read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def result_of(request: Request, job: EngineJob) -> Any:
    """What the job gives, or raises; cancelled where its client goes before."""

    async def wait() -> Any:
        return await job

    gone, done = asyncio.ensure_future(until_gone(request)), asyncio.ensure_future(wait())
    try:
        await asyncio.wait({gone, done}, return_when=asyncio.FIRST_COMPLETED)
        if done.done():
            try:
                return done.result()
            except PyengineError as e:
                raise server_of(request).told(e) from None
        raise Refusal(GONE, "the client has gone", code="client_gone")
    finally:
        job.cancel()  # nothing, where it has ended
        for task in (gone, done):
            task.cancel()
        await asyncio.gather(gone, done, return_exceptions=True)
