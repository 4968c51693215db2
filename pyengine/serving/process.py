"""A process that serves one app: its socket, its signals and its end."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from ..errors import UnavailableError
from .connections import MAX_HEADERS, protocol
from .settings import ServerSettings

#: Seconds after a signal to end: jobs are let go on for so long, then they are cancelled; what has
#: not ended by itself then is ended.
DRAIN, CANCEL, LAST = 5.0, 7.0, 8.0


class Process(uvicorn.Server):
    """uvicorn's server of an app.

    The first SIGTERM or SIGINT drains: no more connections, what was begun is done, for DRAIN
    seconds; then `stop` is called, in another thread, which cancels it. A second one stops.
    """

    def __init__(
        self,
        app: ASGIApp,
        stop: Callable[[], None],
        settings: ServerSettings,
        host: str,
        port: int,
        started: Callable[[str], Any],
    ):
        self.stop, self.told = stop, started
        super().__init__(
            uvicorn.Config(
                app,
                host=host,
                port=port,
                http=protocol(settings),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=max(1, int(settings.keep_alive)),
                timeout_graceful_shutdown=int(CANCEL),
                h11_max_incomplete_event_size=MAX_HEADERS,
            )
        )
        self._last: threading.Timer | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            self.told(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._last is None:
            # Should a kernel or a client hold the end up. The process leaves nothing behind.
            self._last = threading.Timer(LAST, os._exit, (0,))
            self._last.daemon = True
            self._last.start()
            super().handle_exit(sig, frame)
        else:
            self.should_exit = self.force_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        cancelling = loop.call_later(
            0 if self.force_exit else DRAIN, lambda: loop.run_in_executor(None, self.stop)
        )
        try:
            await super().shutdown(sockets)
        finally:
            cancelling.cancel()


def serve(
    app: ASGIApp,
    stop: Callable[[], None],
    settings: ServerSettings,
    host: str,
    port: int,
    started: Callable[[str], Any],
) -> None:
    """Serves until a signal ends it; `stop` is called then, and where draining takes too long.

    started: called with the address, once it listens. Raises UnavailableError where it cannot.
    """
    many_files()
    process = Process(app, stop, settings, host, port, started)
    # uvicorn sends itself the signals again that it was ended by: they have done their work.
    before = {sig: signal.signal(sig, lambda *_: None) for sig in (signal.SIGTERM, signal.SIGINT)}
    try:
        process.run()
    except SystemExit as e:  # uvicorn's, which has logged why
        if e.code:
            raise UnavailableError(f"port: {host}:{port} cannot be listened at") from None
    finally:
        stop()
        for sig, handler in before.items():
            signal.signal(sig, handler)


def many_files() -> None:
    """As many open files as the system lets the process have: a connection is one."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
