"""What every request goes through, before anything reads it and after everything has answered it.

An identity, limits on what is read and on how many are read at once, requests of other sites'
pages, headers of every answer, the log, counters, and an answer in words where nobody else has one.
"""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import PyengineError, UnavailableError
from .errors import Refusal, answer, refusal_of
from .hosts import is_known, is_loopback, name_in

if TYPE_CHECKING:
    from .budget import Budget
    from .settings import ServerSettings
    from .tracing import Tracing

log = logging.getLogger("pyengine.serving")

#: Bytes a second that a body comes at, at least, once `idle` seconds are over.
SLOWEST = 65_536
_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
#: Methods that change nothing: a page of another site may ask so, and cannot read the answer.
SAFE = ("GET", "HEAD", "OPTIONS")
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
RAW_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]


class Counting(Protocol):
    """What a gate needs of the metrics of what it stands around."""

    def request(
        self, method: str, route: str, status: int, seconds: float, refusal: Refusal | None
    ) -> None:
        """A request was answered."""


class Gated(Protocol):
    """What a gate needs of what it stands around: of a Server, or of the front of several."""

    @property
    def settings(self) -> "ServerSettings": ...
    @property
    def bodies(self) -> "Budget": ...
    @property
    def metrics(self) -> Counting: ...
    @property
    def tracing(self) -> "Tracing": ...


class Gate:
    """Middleware around all of an app's routes. admit: is asked last of what every request is asked
    before it is routed; what it raises is the answer.
    """

    def __init__(
        self, app: ASGIApp, server: Gated, admit: Callable[[Scope, Headers], None] = lambda *_: None
    ):
        self.app, self.server, self.admit, self.active = app, server, admit, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        self.active += 1
        try:
            passage = _Passage(self, scope, receive, send)
            with self.server.tracing.request(scope, passage.id) as span:
                await passage.go()
                self.server.tracing.answered(span, passage.status, passage.caller)
        finally:
            self.active -= 1


class _Passage:
    """One request on its way."""

    def __init__(self, gate: Gate, scope: Scope, receive: Receive, send: Send):
        self.gate, self.server, self.settings = gate, gate.server, gate.server.settings
        self.scope, self.receive, self.send = scope, receive, send
        self.headers = Headers(scope=scope)
        given = self.headers.get("x-request-id", "")
        self.id = given if _ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        self.state: dict[str, Any] = scope.setdefault("state", {})
        self.state["request_id"] = self.id
        self.begin, self.received, self.whole = time.monotonic(), 0, False
        self.status = 0

    @property
    def caller(self) -> str | None:
        found: str | None = self.state.get("caller")
        return found

    async def go(self) -> None:
        try:
            self._check()
            await self.gate.app(self.scope, self._receive, self._send)
        except asyncio.CancelledError:
            # The server is ending, and waits no longer.
            await self._failed(UnavailableError("the server is ending"))
        except Exception as e:
            await self._failed(e)
        finally:
            self.server.bodies.give_back(self.received)
            self._note()

    async def _failed(self, error: Exception) -> None:
        refusal = refusal_of(error)
        self.state["refusal"] = refusal
        if refusal.status >= 500 and not isinstance(error, Refusal | PyengineError):
            log.error("request failed", exc_info=error, extra={"fields": {"request_id": self.id}})
        if self.status:
            raise error  # the answer has begun: whoever runs the app closes the connection
        await answer(refusal, self.scope["path"])(self.scope, self.receive, self._send)

    # --- on the way in ----------------------------------------------------------------------------

    def _check(self) -> None:
        if self.gate.active > self.settings.max_requests:
            raise Refusal(
                429,
                "the server answers as many requests as it may at once",
                code="busy",
                retry_after=1.0,
            )
        self._check_host()
        length = self.headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise Refusal(400, "content-length: expected a number", "content-length")
        if int(length[:20]) > self.settings.max_body:
            raise self._too_long()
        self._check_origin()
        self.gate.admit(self.scope, self.headers)

    def _check_host(self) -> None:
        """Where everybody on this machine may call, or names were listed: see hosts.py."""
        allowed, host = self.settings.allowed_hosts, self.headers.get("host")
        at, _ = self.scope.get("server") or ("", None)
        if host is None or not (allowed or (is_loopback(at) and not self.settings.api_keys)):
            return  # browsers always send it
        name = name_in(host)
        if not is_known(name, allowed):
            raise Refusal(
                403,
                "host: expected an address, localhost, or a name that this server"
                f" was started with (allowed_hosts), given {name[:100]!r}",
                "host",
                "unknown_host",
            )

    def _too_long(self) -> Refusal:
        text = f"body: expected at most {self.settings.max_body} bytes"
        return Refusal(413, text, "body", "too_large", headers={"connection": "close"})

    def _check_origin(self) -> None:
        """Pages of other sites may send forms to any address, and need no permission for it."""
        origin = self.headers.get("origin")
        allowed = self.settings.cors_origins
        if origin is None or self.scope["method"] in SAFE or "*" in allowed or origin in allowed:
            return
        try:
            here = urlsplit(origin).netloc
        except ValueError:
            here = ""
        if not here or here.lower() != self.headers.get("host", "").lower():
            raise Refusal(
                403,
                "origin: expected this server's own pages, or one that it was started with",
                "origin",
                "cross_origin",
            )

    async def _receive(self) -> Message:
        """The next piece, within the limits of size and time; what comes after the body may take
        as long as it likes.
        """
        if self.whole:
            return await self.receive()
        left = self.settings.idle + self.received / SLOWEST - (time.monotonic() - self.begin)
        try:
            message = await asyncio.wait_for(self.receive(), max(left, 0.001))
        except TimeoutError:
            raise self._too_slow() from None
        except asyncio.TimeoutError:  # Python 3.10's, another class
            raise self._too_slow() from None
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            if self.received + size > self.settings.max_body:
                raise self._too_long()
            self.server.bodies.take(size)
            self.received += size
            self.whole = not message.get("more_body", False)
        return message

    def _too_slow(self) -> Refusal:
        return Refusal(
            408,
            "body: it came too slowly",
            "body",
            "timeout",
            again=True,
            headers={"connection": "close"},
        )

    # --- on the way out ---------------------------------------------------------------------------

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message["headers"] = list(message.get("headers", ()))
            given = {name for name, _ in headers}
            headers += [pair for pair in RAW_HEADERS if pair[0] not in given]
            headers.append((b"x-request-id", self.id.encode()))
        await self.send(message)

    def _note(self) -> None:
        seconds = time.monotonic() - self.begin
        route = str(self.state.get("route") or getattr(self.scope.get("route"), "path", "none"))
        refusal: Refusal | None = self.state.get("refusal")
        self.server.metrics.request(self.scope["method"], route, self.status, seconds, refusal)
        fields = {
            "request_id": self.id,
            "method": self.scope["method"],
            "path": self.scope["path"][:200],
            "status": self.status,
            "seconds": round(seconds, 4),
            "bytes": self.received,
            "caller": self.caller,
            **self.state.get("log", {}),
        }
        if refusal is not None:
            fields |= {"reason": refusal.reason, "param": refusal.param}
        log.info("request", extra={"fields": fields})
