"""Connections that are slow, silent or too many: closed, since each holds a file of the process."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from .settings import ServerSettings

#: To a client that comes when there are as many connections as may be.
FULL = (b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\nconnection: close\r\n"
        b"content-length: 0\r\n\r\n")  # fmt: skip


def protocol(settings: ServerSettings) -> type[H11Protocol]:
    """uvicorn's protocol with limits, for its `http`."""

    class Connection(H11Protocol):
        """uvicorn closes what is silent between two requests. This closes too what is silent before
        a request's headers are whole, and what does not take its answer. A request's body is the
        app's to limit.
        """

        _silence: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > settings.max_connections:
                transport.write(FULL)
                transport.close()
                return
            self._wait_for_headers()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._between_requests():
                # The clock runs from the first byte on: a byte now and then does not wind it up.
                if self._silence is None:
                    self._wait_for_headers()
            else:
                self._hear()

        def connection_lost(self, exc: Exception | None) -> None:
            self._hear()
            self._read()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            self._hear()
            super().on_response_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._unread is None:
                self._wait_for_reader()

        def resume_writing(self) -> None:
            self._read()
            super().resume_writing()

        def _between_requests(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _wait_for_headers(self) -> None:
            self._silence = self.loop.call_later(settings.idle, self.transport.abort)

        def _wait_for_reader(self) -> None:
            """As long as it takes something now and then: an answer may be megabytes."""
            left = self.transport.get_write_buffer_size()

            def look() -> None:
                if self.transport.get_write_buffer_size() >= left:
                    self.transport.abort()
                else:
                    self._wait_for_reader()

            self._unread = self.loop.call_later(settings.idle, look)

        def _hear(self) -> None:
            if self._silence is not None:
                self._silence.cancel()
                self._silence = None

        def _read(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None

    return Connection
