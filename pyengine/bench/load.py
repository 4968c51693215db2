"""An open-loop client: requests come when they come, however long the server takes.

A closed loop, where a client asks again when it was answered, slows down with the server and so
hides how long others would have waited (Schroeder, Wierman & Harchol-Balter 2006, "Open versus
closed: a cautionary tale", NSDI).
"""

import asyncio
import hashlib
import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

#: Statuses of requests that no answer came for: the client's patience was over; the connection was
#: cut.
TIMED_OUT, CUT = 0, -1
PATH = "/v1/images/generations"


@dataclass(frozen=True)
class Kind:
    """One sort of request. body: its fields. share: how many there are, against other kinds.
    short: whether it is one of those that should not have to wait for long ones.
    """

    name: str
    body: dict[str, Any]
    share: float
    short: bool = True


@dataclass(frozen=True)
class Request:
    """due: seconds after the beginning at which it is sent."""

    kind: Kind
    seed: int
    due: float = 0.0

    @property
    def body(self) -> bytes:
        return json.dumps({"prompt": "a red heart", **self.kind.body, "seed": self.seed}).encode()


@dataclass
class Outcome:
    """What became of a request. seconds: from when it was due to its answer's last byte; late: of
    these, how long the client took to send it. seeds: that the answer names; digest: of its
    pictures. why: what was wrong with the connection, where it was cut.
    """

    request: Request
    status: int
    seconds: float
    late: float = 0.0
    retry_after: float | None = None
    seeds: list[int] = field(default_factory=list)
    digest: str = ""
    why: str = ""

    @property
    def done(self) -> bool:
        return self.status == 200

    @property
    def refused(self) -> bool:
        return self.status == 429


def mixed(kinds: Sequence[Kind], seed: int) -> Iterator[Request]:
    """Requests without end, each with its own seed. Kinds come in their shares, spread evenly: next
    is the one that is furthest behind its share. Drawn at random, a few of the long ones more or
    less would decide what a run of seconds shows.
    """
    whole = sum(kind.share for kind in kinds)
    behind = [0.0] * len(kinds)
    for k in itertools.count():
        for i, kind in enumerate(kinds):
            behind[i] += kind.share / whole
        next_one = max(range(len(kinds)), key=behind.__getitem__)
        behind[next_one] -= 1.0
        yield Request(kinds[next_one], seed * 1_000_000 + k)


def arrivals(kinds: Sequence[Kind], rate: float, seconds: float, seed: int) -> list[Request]:
    """Poisson arrivals of `rate` requests a second; their kinds: see `mixed`."""
    chance, requests = random.Random(seed), mixed(kinds, seed)
    found: list[Request] = []
    due = chance.expovariate(rate)
    while due < seconds:
        found.append(replace(next(requests), due=due))
        due += chance.expovariate(rate)
    return found


async def offer(port: int, requests: Sequence[Request], patience: float) -> list[Outcome]:
    """Sends every request when it is due. patience: seconds until the client gives one up."""
    begin, client = time.perf_counter(), Client(port)

    async def one(request: Request) -> Outcome:
        await asyncio.sleep(begin + request.due - time.perf_counter())
        return await client.ask(request, patience, begin + request.due)

    try:
        return list(await asyncio.gather(*map(one, requests)))
    finally:
        client.close()


async def closed(
    port: int,
    requests: Iterator[Request],
    callers: int,
    patience: float,
    until: float = float("inf"),
) -> list[Outcome]:
    """Sends requests one after the other by so many callers, until there are none or until that
    time of time.perf_counter().
    """
    found: list[Outcome] = []
    client = Client(port)

    async def caller() -> None:
        while time.perf_counter() < until and (request := next(requests, None)) is not None:
            found.append(await client.ask(request, patience, time.perf_counter()))

    try:
        await asyncio.gather(*(caller() for _ in range(callers)))
    finally:
        client.close()
    return found


async def ask(port: int, request: Request, patience: float, due: float) -> Outcome:
    """One request on a connection of its own. due: when it should have been sent."""
    client = Client(port)
    try:
        return await client.ask(request, patience, due)
    finally:
        client.close()


class Client:
    """Connections that are kept for the next request, as those of HTTP clients are: as many as
    there are requests at once. What it costs is the server's loss, on the same machine, so it does
    no more than it must.
    """

    def __init__(self, port: int):
        self.port = port
        self._idle: list[_Connection] = []

    async def ask(self, request: Request, patience: float, due: float) -> Outcome:
        """due: when it should have been sent."""
        late = time.perf_counter() - due
        try:
            answer = await self._exchange(request.body, patience)
            status, headers, body = _parsed(answer)
        except asyncio.TimeoutError:
            return Outcome(request, TIMED_OUT, time.perf_counter() - due, late)
        except (OSError, ValueError) as e:
            why = f"{type(e).__name__}: {e}"
            return Outcome(request, CUT, time.perf_counter() - due, late, why=why)
        outcome = Outcome(request, status, time.perf_counter() - due, late)
        if status == 200:
            pictures = json.loads(body)["data"]
            outcome.seeds = [picture["seed"] for picture in pictures]
            outcome.digest = hashlib.sha256(
                "".join(p["b64_json"] for p in pictures).encode()
            ).hexdigest()
        elif "retry-after" in headers:
            outcome.retry_after = float(headers["retry-after"])
        return outcome

    def close(self) -> None:
        for connection in self._idle:
            connection.transport.abort()

    async def _exchange(self, body: bytes, patience: float) -> bytes:
        loop = asyncio.get_running_loop()
        connection = None
        while self._idle and (connection is None or connection.transport.is_closing()):
            connection = self._idle.pop()  # the one that was used last: others may be closed
        if connection is None or connection.transport.is_closing():
            _, connection = await loop.create_connection(_Connection, "127.0.0.1", self.port)
        connection.answer = loop.create_future()
        over = loop.call_later(patience, connection.over)
        try:
            connection.transport.write(
                f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            answer = await connection.answer
        finally:
            over.cancel()
        if b"\r\nconnection: close" in answer.partition(b"\r\n\r\n")[0].lower():
            connection.transport.abort()
        else:
            self._idle.append(connection)
        return answer


class _Connection(asyncio.Protocol):
    """answer: of the request on it; set by whoever sends one."""

    transport: asyncio.Transport
    answer: "asyncio.Future[bytes]"

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._missing = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self._missing < 0:
            data = b"".join([*self._pieces, data])
            self._pieces.clear()
            head, end, body = data.partition(b"\r\n\r\n")
            if not end:
                self._pieces.append(data)
                return
            _, _, length = head.lower().partition(b"\r\ncontent-length:")
            self._missing = int(length.split(b"\r\n", 1)[0] or 0) - len(body)
        else:
            self._missing -= len(data)
        self._pieces.append(data)
        if self._missing <= 0:
            self._tell(b"".join(self._pieces))

    def connection_lost(self, exc: Exception | None) -> None:
        if hasattr(self, "answer") and not self.answer.done():
            self.answer.set_exception(
                exc or ValueError("half an answer" if self._pieces else "no answer")
            )

    def over(self) -> None:
        """The client gives up: the server sees that it has gone."""
        self.answer.set_exception(asyncio.TimeoutError())
        self.transport.abort()

    def _tell(self, answer: bytes) -> None:
        self._pieces.clear()
        self._missing = -1
        if not self.answer.done():
            self.answer.set_result(answer)


def _parsed(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body)."""
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(first.split(" ")[1]), headers, body
