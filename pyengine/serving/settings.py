"""What a server goes by: keys, limits, times. Nothing here imports FastAPI or torch."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from ..errors import RequestError

MB = 1 << 20
#: Characters of an API key.
KEY_LENGTH = range(1, 1025)
_NAME = re.compile(r"[\w.-]{1,253}", re.ASCII)
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]{0,20}://[^/\s]{1,255}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Settings of create_app. Raises RequestError for a value out of its range.

    api_keys: who may call; none: everybody. rate: requests a minute that each caller may begin
    (a caller is a key, without keys an address), 0: any number.
    deadline: seconds within which a request is done, where it does not say; the most that it may
    say, too. A request that takes longer with nothing beside it is refused.
    alias_unknown_models: an unknown name of a model is the first one's, as Open WebUI's dall-e-2.
    allowed_hosts: names, such as "pictures.example.com", that clients may call the server by,
    besides addresses and localhost; "*": any. Where none are listed, names are checked if there are
    no keys and the connection is this machine's own: that keeps out pages of other sites whose
    names resolve to it.
    cors_origins: origins, such as "https://example.com", whose pages may call; "*": all.

    max_body: bytes of a request. max_file: of one picture as it was sent. max_pixels: of one
    picture that comes in, and of all that go out together. max_prompt: characters.
    max_held: bytes of the requests that are being read together, and of the decoded pictures of
    those that wait.
    max_pictures: of one request. max_previews: of a job.
    max_connections: that are open at once; max_requests: that are answered at once.
    idle: seconds that a connection may be silent: before a request is whole, and while an answer
    is not taken. keep_alive: between two requests; longer than a proxy in front keeps connections
    open (nginx, and load balancers of AWS: 60), which would send a request on one that is being
    closed.
    keep: seconds that a job is kept once it has ended; max_kept, max_kept_bytes: jobs that are
    kept, and their results together: the oldest go first.
    ping: seconds between signs of life in a stream.
    node: a name that the ids of jobs begin with, so that who stands in front of several servers
    finds them again; "": none.
    warm_up: whether each model draws a picture before the first client's: what is too large for the
    machine is known by it.
    """

    api_keys: tuple[str, ...] = ()
    rate: float = 0.0
    deadline: float = 120.0
    alias_unknown_models: bool = False
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_body: int = 64 * MB
    max_file: int = 20 * MB
    max_pixels: int = 1 << 24
    max_held: int = 1024 * MB
    max_prompt: int = 32_000
    max_pictures: int = 10
    max_previews: int = 20
    max_connections: int = 2000
    max_requests: int = 512
    idle: float = 30.0
    keep_alive: float = 75.0
    keep: float = 3600.0
    max_kept: int = 1000
    max_kept_bytes: int = 256 * MB
    ping: float = 10.0
    node: str = ""
    warm_up: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            check = _CHECKS.get(field.name)
            if check is not None:
                check(field.name, getattr(self, field.name))
        for key in self.api_keys:
            if len(key) not in KEY_LENGTH or not key.isascii() or not key.isprintable():
                raise RequestError(
                    f"api_keys: expected {KEY_LENGTH[0]} to {KEY_LENGTH[-1]} printable characters"
                    f" of ASCII each, given one of {len(key)} characters"
                )
        for host in self.allowed_hosts:
            if host != "*" and not _NAME.fullmatch(host):
                raise RequestError(
                    'allowed_hosts: expected such as "pictures.example.com", without a port, or'
                    f' "*", given {host!r}'
                )
        for origin in self.cors_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise RequestError(
                    'cors_origins: expected such as "https://example.com", without a path, or "*",'
                    f" given {origin!r}"
                )
        if len(set(self.api_keys)) != len(self.api_keys):
            raise RequestError("api_keys: expected each once")


def _number(low: float, high: float, kinds: tuple[type, ...]) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        right = isinstance(value, kinds) and not isinstance(value, bool)
        if not right or not (math.isfinite(value) and low <= value <= high):
            what = "a number" if float in kinds else "a whole number"
            raise RequestError(f"{name}: expected {what} from {low:g} to {high:g}, given {value!r}")

    return check


def _whole(low: int, high: int) -> Callable[[str, Any], None]:
    return _number(low, high, (int,))


def _real(low: float, high: float) -> Callable[[str, Any], None]:
    return _number(low, high, (int, float))


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "rate": _real(0, 1e6),
    "deadline": _real(1e-3, 1e6),
    "max_body": _whole(1024, 1 << 32),
    "max_file": _whole(1024, 1 << 28),
    "max_pixels": _whole(64, 1 << 26),
    "max_held": _whole(1024, 1 << 40),
    "max_prompt": _whole(1, 100_000),
    "max_pictures": _whole(1, 1024),
    "max_previews": _whole(0, 1000),
    "max_connections": _whole(1, 1_000_000),
    "max_requests": _whole(1, 1_000_000),
    "idle": _real(0.01, 3600),
    "keep_alive": _real(1, 3600),
    "keep": _real(0.01, 30 * 86_400),
    "max_kept": _whole(1, 1_000_000),
    "max_kept_bytes": _whole(1024, 1 << 40),
    "ping": _real(0.01, 3600),
}
