"""Connections that are slow, silent or too many: closed, since each holds a file of the process."""

import asyncio
import json
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from .errors import Refusal, openai_body
from .settings import ServerSettings

#: Bytes of a request's line and headers.
MAX_HEADERS = 32_768
#: Seconds in which a client may take an answer that came before its request was whole.
LINGER = 2.0
#: So many connections more than may be open are told so; those beyond them are cut.
TOLD = 64


def protocol(settings: ServerSettings) -> type[H11Protocol]:
    """uvicorn's protocol with limits, for its `http`."""

    class Connection(H11Protocol):
        """uvicorn closes what is silent between two requests. This closes too what is silent before
        a request's headers are whole, and what does not take its answer. A request's body is the
        app's to limit.
        """

        _silence: asyncio.TimerHandle | None = None
        _unread: asyncio.TimerHandle | None = None
        _linger: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(_Lingering(transport, self))  # type: ignore[arg-type] # has all
            if len(self.connections) > settings.max_connections + TOLD:
                transport.abort()
            elif len(self.connections) > settings.max_connections:
                self.transport.write(_raw(FULL))
                self.linger(transport)
            else:
                self._wait_for_headers()

        def data_received(self, data: bytes) -> None:
            if self._linger is not None:
                return
            super().data_received(data)
            if self._between_requests():
                # The clock runs from the first byte on: a byte now and then does not wind it up.
                if self._silence is None:
                    self._wait_for_headers()
            else:
                self._hear()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self._linger, self._unread):
                if timer is not None:
                    timer.cancel()
            self._hear()
            super().connection_lost(exc)

        def on_response_complete(self) -> None:
            self._hear()
            super().on_response_complete()

        def send_400_response(self, msg: str) -> None:
            self.transport.write(_raw(Refusal(400, f"request: {msg}", code="invalid_request")))
            self.linger(self.transport)

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._unread is None:
                self._wait_for_reader()

        def resume_writing(self) -> None:
            if self._unread is not None:
                self._unread.cancel()
                self._unread = None
            super().resume_writing()

        # --- its end ------------------------------------------------------------------------------

        @property
        def lingers(self) -> bool:
            return self._linger is not None

        @property
        def unfinished(self) -> bool:
            """Whether bytes of a request may still come."""
            return self.cycle is not None and self.cycle.more_body

        def linger(self, transport: Any) -> None:
            """Ends the answer, and takes what still comes of the request for a while: a connection
            that is closed before all was read is reset, and the answer lost with it.
            """
            if self._linger is None and not transport.is_closing():
                self._linger = self.loop.call_later(LINGER, transport.abort)
                self._hear()
                transport.resume_reading()
                transport.write_eof()

        # --- clocks -------------------------------------------------------------------------------

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

    return Connection


class _Lingering:
    """A connection's transport, closed only when its request was read."""

    def __init__(self, transport: Any, connection: Any):
        self._transport, self._connection = transport, connection
        self.write, self.abort = transport.write, transport.abort

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        found: bool = self._connection.lingers or self._transport.is_closing()
        return found

    def close(self) -> None:
        if self._connection.lingers:
            return
        if self._connection.unfinished:
            self._connection.linger(self._transport)
        else:
            self._transport.close()


#: To a client that comes when there are as many connections as may be.
FULL = Refusal(
    429, "connections: the server has as many as it may have", code="busy", retry_after=1.0
)


def _raw(refusal: Refusal) -> bytes:
    """An answer to what is no request yet, as bytes: the last on its connection."""
    body = json.dumps(openai_body(refusal)).encode()
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **refusal.all_headers(),
    }
    top = f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\n"
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{top}{fields}\r\n".encode() + body
