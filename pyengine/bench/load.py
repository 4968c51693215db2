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
    begin = time.perf_counter()

    async def one(request: Request) -> Outcome:
        await asyncio.sleep(begin + request.due - time.perf_counter())
        return await ask(port, request, patience, begin + request.due)

    return list(await asyncio.gather(*map(one, requests)))


async def closed(port: int, requests: Iterator[Request], callers: int, patience: float,
                 until: float = float("inf")) -> list[Outcome]:  # fmt: skip
    """Sends requests one after the other by so many callers, until there are none or until that
    time of time.perf_counter().
    """
    found: list[Outcome] = []

    async def caller() -> None:
        while time.perf_counter() < until and (request := next(requests, None)) is not None:
            found.append(await ask(port, request, patience, time.perf_counter()))

    await asyncio.gather(*(caller() for _ in range(callers)))
    return found


async def ask(port: int, request: Request, patience: float, due: float) -> Outcome:
    """One request on a connection of its own. due: when it should have been sent."""
    late = time.perf_counter() - due
    try:
        answer = await asyncio.wait_for(_exchange(port, request.body), patience)
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


async def _exchange(port: int, body: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + body
        )
        await writer.drain()
        return await reader.read()
    finally:
        writer.close()


def _parsed(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """(status, headers, body). Raises ValueError where the answer is not whole."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        raise ValueError("no answer")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if len(body) != int(headers.get("content-length", len(body))):
        raise ValueError("half an answer")
    return int(first.split(" ")[1]), headers, body
