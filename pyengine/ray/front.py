"""The app in front of replicas: sends each request to one of them, and to another where it dies."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import PyengineError, UnavailableError
from ..serving import ServerSettings
from ..serving.errors import Refusal, answer, body_of, refusal_of
from . import places
from .needs import need
from .replica import Head

log = logging.getLogger("pyengine.ray")

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

#: Replicas that a request is sent to, one after the other, as they die; seconds between.
TRIES = 4
PAUSE = 0.2
#: Seconds beside a request's deadline in which an answer has begun: a replica may have to start.
PATIENCE = 60.0
#: What of an ASGI scope is sent along.
SENT = ("type", "http_version", "method", "scheme", "path", "raw_path", "query_string", "headers",
        "client", "server", "root_path")  # fmt: skip


@dataclass(frozen=True)
class Group:
    """Replicas that serve the same models. handle: Ray Serve's, of their deployment."""

    models: tuple[str, ...]
    handle: Any

    def ask(self, request: "Request", **where: Any) -> Any:
        """Ray's response, of which Head and bytes come."""
        method = self.handle.options(method_name="answer", stream=True)
        return method.remote(request.scope, request.body, **where)


@dataclass(frozen=True)
class Request:
    """A request that has been read. scope: what of ASGI's can be sent."""

    scope: dict[str, Any]
    body: bytes

    @property
    def path(self) -> str:
        return str(self.scope["path"])

    def header(self, name: str) -> str:
        found = dict(self.scope["headers"]).get(name.encode(), b"")
        return str(found.decode("latin-1"))


class Front:
    """An ASGI app over groups of replicas, the first of which answers what names no model."""

    def __init__(self, groups: Sequence[Group], settings: ServerSettings):
        self._groups, self._settings = tuple(groups), settings

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _other(scope, receive, send)
            return
        out = Answer(scope, receive, send)
        try:
            request = await self._read(scope, receive)
            await _unless_left(self._answer(request, out), receive)
        except (Refusal, PyengineError) as e:
            await out.refuse(refusal_of(e))
        except _Left:
            pass
        except Exception as e:
            log.exception("a request failed")
            await out.refuse(refusal_of(e))

    async def _read(self, scope: dict[str, Any], receive: Receive) -> Request:
        """The whole request. Raises Refusal: 413 for one that is too large."""
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Left
            size += len(message.get("body", b""))
            if size > self._settings.max_body:
                raise Refusal(413, f"body: expected at most {self._settings.max_body} bytes, given"
                              " more", "body", "too_large")  # fmt: skip
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                return Request({k: scope[k] for k in SENT if k in scope}, b"".join(parts))

    async def _answer(self, request: Request, out: "Answer") -> None:
        everyone = places.EVERYONE.get(request.path)
        if everyone is not None and request.scope["method"] == "GET":
            answers = [
                await self._collect(group, request, {"to": name})
                for group in self._groups
                for name in (places.replicas(group) if everyone.replicas else [None])
            ]
            await out.whole(everyone.merge(answers))
            return
        group, where = places.of(request, self._groups)
        await self._relay(group, request, where, out)

    async def _collect(self, group: Group, request: Request, where: Mapping[str, Any]) -> Any:
        """A replica's name and its whole answer: (name, status, headers, body)."""
        whole = Collected()
        await self._relay(group, request, where, whole)
        return where.get("to"), whole.status, whole.headers, b"".join(whole.parts)

    async def _relay(
        self, group: Group, request: Request, where: Mapping[str, Any], out: Any
    ) -> None:
        """The answer of one replica, of the next where it dies before it has said anything."""
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(PAUSE)
            response = group.ask(request, **where)
            try:
                await self._pass_on(response, out)
            except lost() as e:
                log.warning("a replica was lost: %s", type(e).__name__)
                if out.begun:
                    await out.cut(_lost())
                    return
            except need("ray.serve.exceptions").BackPressureError:
                raise Refusal(429, "the queue is full", code="queue_full",
                              retry_after=1.0) from None  # fmt: skip
            except asyncio.TimeoutError:
                raise Refusal(503, "no replica has answered in time", code="unavailable",
                              retry_after=5.0) from None  # fmt: skip
            else:
                return
            finally:
                response.cancel()
        raise _lost()

    async def _pass_on(self, response: Any, out: Any) -> None:
        patience = self._settings.deadline + PATIENCE
        head: Head | None = None
        while True:
            try:
                item = await asyncio.wait_for(response.__anext__(), patience)
            except StopAsyncIteration:
                break
            if isinstance(item, tuple):
                head = item  # held back, so that a replica that dies now is as if never asked
                continue
            if head is not None:
                await out.begin(head)
                head = None
            await out.add(item)
        if head is not None:
            await out.begin(head)
        await out.end()


class Answer:
    """An answer on its way to the client."""

    def __init__(self, scope: dict[str, Any], receive: Receive, send: Send):
        self._scope, self._receive, self._send = scope, receive, send
        self.begun = False
        self._events = False

    async def begin(self, head: Head) -> None:
        status, headers = head
        self.begun = True
        self._events = dict(headers).get(b"content-type", b"").startswith(b"text/event-stream")
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def add(self, body: bytes, more: bool = True) -> None:
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def end(self) -> None:
        await self.add(b"", more=False)

    async def whole(self, given: tuple[int, list[tuple[bytes, bytes]], bytes]) -> None:
        status, headers, body = given
        await self.begin((status, headers))
        await self.add(body, more=False)

    async def refuse(self, refusal: Refusal) -> None:
        """An error in the shape of the path's surface; see `cut` where an answer has begun."""
        if self.begun:
            await self.cut(refusal)
            return
        self.begun = True
        await answer(refusal, self._scope["path"])(self._scope, self._receive, self._send)

    async def cut(self, refusal: Refusal) -> None:
        """An answer that cannot go on. A stream of events ends with the error, as OpenAI's client
        reads it; of any other the client sees that it is not whole.
        """
        if not self._events:
            raise UnavailableError(refusal.message)
        data = json.dumps(body_of(refusal, self._scope["path"]))
        await self.add(f"data: {data}\n\n".encode())
        await self.end()


class Collected:
    """An answer that is kept."""

    def __init__(self) -> None:
        self.status, self.headers, self.parts, self.begun = 0, [], [], False  # type: ignore[var-annotated]

    async def begin(self, head: Head) -> None:
        self.status, self.headers = head

    async def add(self, body: bytes) -> None:
        self.parts.append(body)

    async def end(self) -> None:
        pass


class _Left(Exception):  # noqa: N818
    """The client has gone."""


async def _unless_left(work: Any, receive: Receive) -> None:
    """Awaits `work`, or cancels it when the client goes and raises _Left."""

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(work), asyncio.ensure_future(left())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise _Left
        await tasks[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _other(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Lifespan, which has nothing to do here, and websockets, of which there are none."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})
        return
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def lost() -> tuple[type[BaseException], ...]:
    """Errors by which Ray tells that a replica, or what it had said, is no more."""
    errors, serve = need("ray.exceptions"), need("ray.serve.exceptions")
    return (errors.RayActorError, errors.ObjectLostError, errors.WorkerCrashedError,
            serve.ReplicaUnavailableError)  # fmt: skip


def _lost() -> Refusal:
    return Refusal(503, "the replica that drew this was lost; the same request may be sent again",
                   code="replica_lost", retry_after=1.0, again=True)  # fmt: skip
