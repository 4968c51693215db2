"""What an app holds: the engine, what the server goes by, and what its surfaces share."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from fastapi import Request

from ..engine import Engine
from ..errors import CancelledError, UnavailableError
from .budget import Budget
from .drawing import Drawing, Drawings
from .kept import Jobs
from .metrics import Metrics
from .models import ServedModels
from .rates import Rates
from .settings import ServerSettings
from .tracing import Tracing

T = TypeVar("T")
log = logging.getLogger("pyengine.serving")

#: Threads that check requests, and read and write pictures; the engine has its own.
THREADS = 4


class Server:
    """app.state.server of create_app's apps. `close` ends its threads, not the engine."""

    def __init__(self, engine: Engine, settings: ServerSettings):
        self.engine, self.settings = engine, settings
        self.models = ServedModels(engine, settings)
        #: Bytes of requests that are being read, and of decoded pictures that wait.
        self.bodies, self.held = Budget(settings.max_held), Budget(settings.max_held)
        self.metrics, self.tracing = Metrics(engine, self.held), Tracing()
        self.metrics.names({self.models.engine_name(name): name for name in self.models.names})
        self.rates = Rates(settings.rate)
        self.drawings = Drawings(engine, self.models, settings, self.held, self._ended)
        self.jobs = Jobs(self)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="pyengine-serving")

    def _ended(self, drawing: Drawing, context: Any) -> None:
        """A job has ended; in the engine's thread. context: of the span that it belongs to."""
        job = drawing.job
        self.metrics.ended(drawing.model, job, len(drawing.seeds))
        self.tracing.job(drawing.model, job.times, job.report, context)

    def told(self, error: Exception) -> Exception:
        """What a client is told of a job's error: that the server is ending, where it was cancelled
        for that.
        """
        if isinstance(error, CancelledError) and self.engine.closed:
            return UnavailableError("the server is ending")
        return error

    async def in_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        """call(*arguments) beside the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, call, *arguments)

    async def close(self) -> None:
        await self.jobs.close()
        self._threads.shutdown(wait=True, cancel_futures=True)


def server_of(request: Request) -> Server:
    server: Server = request.app.state.server
    return server
