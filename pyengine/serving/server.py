"""What an app holds: the engine, what the server goes by, and what its surfaces share."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import Request

from ..engine import Engine
from .budget import Budget
from .drawing import Drawings
from .models import ServedModels
from .settings import ServerSettings

T = TypeVar("T")

#: Threads that check requests, and read and write pictures; the engine has its own.
THREADS = 4


class Server:
    """app.state.server of create_app's apps. `close` ends its threads, not the engine."""

    def __init__(self, engine: Engine, settings: ServerSettings):
        self.engine, self.settings = engine, settings
        self.models = ServedModels(engine, settings)
        #: Bytes of requests that are being read, and of decoded pictures that wait.
        self.bodies, self.held = Budget(settings.max_held), Budget(settings.max_held)
        self.drawings = Drawings(engine, self.models, settings, self.held)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="pyengine-serving")

    async def in_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        """call(*arguments) beside the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, call, *arguments)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)


def server_of(request: Request) -> Server:
    server: Server = request.app.state.server
    return server
