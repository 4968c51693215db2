"""The app in front of replicas: sends each request to one of them, and to another where it dies."""

import asyncio
import contextlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

from ..serving import ServerSettings
from ..serving.budget import Budget
from ..serving.errors import GONE, Refusal, body_of, refusal_of
from ..serving.gate import Gate
from ..serving.rates import Rates
from ..serving.tracing import Tracing
from . import places
from .metrics import FrontMetrics
from .needs import need
from .replica import Head

log = logging.getLogger("pyengine.ray")

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

    @property
    def begins(self) -> bool:
        """Whether it asks for pictures: what `rate` counts."""
        return self.scope["method"] == "POST" and self.path.startswith(places.DRAWING)

    def header(self, name: str) -> str:
        found = dict(self.scope["headers"]).get(name.encode(), b"")
        return str(found.decode("latin-1"))


class Front:
    """An ASGI app over groups of replicas, the first of which answers what names no model.

    What it shares with a server is done here once for all replicas: limits on what is read, rates,
    request ids, the log.
    """

    def __init__(self, groups: Sequence[Group], settings: ServerSettings):
        self._groups, self.settings = tuple(groups), settings
        self.bodies, self.tracing = Budget(settings.max_held), Tracing()
        self.metrics, self._rates = FrontMetrics(), Rates(settings.rate)
        self._gate = Gate(self._inside, self)
        self._end: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def stop(self) -> None:
        """Ends what is being answered, in words; from any thread."""
        if self._end is not None:
            loop, end = self._end
            with contextlib.suppress(RuntimeError):  # the loop has ended, and its requests with it
                loop.call_soon_threadsafe(end.set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await self._gate(scope, receive, send)

    async def _inside(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Within the gate, which answers what is raised before an answer has begun."""
        out = Answer(scope, send)
        try:
            request = await self._read(scope, receive)
            if request.begins:
                self._rates.check(places.caller_of(request))
            if self._end is None:
                self._end = asyncio.get_running_loop(), asyncio.Event()
            await _unless(self._answer(request, out), out, receive, self._end[1])
        except Exception as e:
            if not out.events:
                raise
            await out.cut(refusal_of(e))

    async def _read(self, scope: Scope, receive: Receive) -> Request:
        """The whole request."""
        parts = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _gone()
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                break
        sent = {name: scope[name] for name in SENT if name in scope}
        given = [(k, v) for k, v in scope["headers"] if k != b"x-request-id"]
        sent["headers"] = [*given, (b"x-request-id", scope["state"]["request_id"].encode())]
        return Request(sent, b"".join(parts))

    async def _answer(self, request: Request, out: "Answer") -> None:
        everyone = places.EVERYONE.get(request.path)
        if everyone is not None and request.scope["method"] == "GET":
            answers = {}
            for group in self._groups:
                names = places.replicas(group) if everyone.replicas else []
                for name in names or [""]:
                    found = await self._collect(group, request, name)
                    answers[found.name] = found
            if everyone.replicas:
                answers["front"] = places.Whole("front", 200, [], self.metrics.page())
            await out.whole(everyone.merge(list(answers.values())))
            return
        group, where = places.of(request, self._groups)
        await self._relay(group, request, where, out)

    async def _collect(self, group: Group, request: Request, name: str) -> places.Whole:
        """The whole answer of the replica of that name, or of any where it is no more."""
        whole = Collected()
        await self._relay(group, request, {"to": name}, whole)
        return places.Whole(whole.name, whole.status, whole.headers, b"".join(whole.parts))

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
                    raise _lost() from None
            except need("ray.serve.exceptions").BackPressureError:
                raise Refusal(
                    429, "the queue is full", code="queue_full", retry_after=1.0
                ) from None
            except asyncio.TimeoutError:
                raise Refusal(
                    503, "no replica has answered in time", code="unavailable", retry_after=5.0
                ) from None
            else:
                return
            finally:
                response.cancel()
        raise _lost()

    async def _pass_on(self, response: Any, out: Any) -> None:
        patience = self.settings.deadline + PATIENCE
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
            if out.ended:  # by its length: a client may go now, which is no fault
                return
        if head is not None:
            await out.begin(head)
        await out.end()


class Answer:
    """An answer on its way to the client. events: whether it is a stream of them. ended: whether
    the client has all of it.
    """

    def __init__(self, scope: Scope, send: Send):
        self._path, self._send = scope["path"], send
        self.begun = self.events = self.ended = False
        self._left = -1

    async def begin(self, head: Head) -> None:
        status, headers, _ = head
        self.begun, found = True, dict(headers)
        self.events = found.get(b"content-type", b"").startswith(b"text/event-stream")
        self._left = int(found.get(b"content-length", b"-1"))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def add(self, body: bytes, more: bool = True) -> None:
        self._left -= len(body)
        self.ended = not more or self._left == 0
        await self._send({"type": "http.response.body", "body": body, "more_body": not self.ended})

    async def end(self) -> None:
        if not self.ended:
            await self.add(b"", more=False)

    async def whole(self, given: places.Whole) -> None:
        await self.begin((given.status, given.headers, given.name))
        await self.add(given.body, more=False)

    async def cut(self, refusal: Refusal) -> None:
        """A stream that cannot go on ends with the error, as OpenAI's client reads it."""
        await self.add(f"data: {json.dumps(body_of(refusal, self._path))}\n\n".encode())
        await self.end()


class Collected:
    """An answer that is kept."""

    begun = ended = False  # nobody has seen it: another replica may be asked

    def __init__(self) -> None:
        self.status, self.name = 0, ""
        self.headers: list[tuple[bytes, bytes]] = []
        self.parts: list[bytes] = []

    async def begin(self, head: Head) -> None:
        self.status, self.headers, self.name = head
        self.parts = []

    async def add(self, body: bytes) -> None:
        self.parts.append(body)

    async def end(self) -> None:
        pass


async def _unless(work: Any, out: Answer, receive: Receive, end: asyncio.Event) -> None:
    """Awaits `work`, or cancels it when the client goes or the front ends."""

    async def left() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(each) for each in (work, left(), end.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done() and not out.ended:
            raise _ending() if end.is_set() else _gone()
        await tasks[0]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _lifespan(receive: Receive, send: Send) -> None:
    """There is nothing to begin or to end."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def lost() -> tuple[type[BaseException], ...]:
    """Errors by which Ray tells that a replica, or what it had said, is no more."""
    errors, serve = need("ray.exceptions"), need("ray.serve.exceptions")
    return (
        errors.RayActorError,
        errors.ObjectLostError,
        errors.WorkerCrashedError,
        serve.ReplicaUnavailableError,
    )


def _gone() -> Refusal:
    return Refusal(GONE, "the client has gone", code="client_gone")


def _ending() -> Refusal:
    return Refusal(503, "the server is ending", code="unavailable", retry_after=1.0)


def _lost() -> Refusal:
    return Refusal(
        503,
        "the replica that drew this was lost; the same request may be sent again",
        code="replica_lost",
        retry_after=1.0,
        again=True,
    )
