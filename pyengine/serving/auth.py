"""Who calls: a key, or an address where there are no keys."""

import base64
import binascii
import hmac
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.types import Scope

from .errors import Refusal
from .settings import ServerSettings


@dataclass(frozen=True)
class Caller:
    """name: "key 1" for the first key, without keys an address; no secret. Jobs, rates and shares
    of the queue are a caller's.
    """

    name: str


async def caller_of(request: Request) -> Caller:
    """The caller, noted for the log. Raises Refusal: 401 for a missing or wrong key."""
    return identified(request.scope, request.headers, request.app.state.server.settings)


def identified(scope: Scope, headers: Headers, settings: ServerSettings) -> Caller:
    """As `caller_of`."""
    if not settings.api_keys:
        client = scope.get("client")
        found = Caller(client[0] if client is not None else "somebody")
    else:
        found = _by_key(headers.get("authorization", ""), settings.api_keys)
    scope.setdefault("state", {})["caller"] = found.name
    return found


#: A parameter of a route: the caller; whoever has no key is refused.
KnownCaller = Annotated[Caller, Depends(caller_of)]


def _by_key(header: str, keys: tuple[str, ...]) -> Caller:
    given = key_in(header)
    # Every key is compared, each in constant time: how long it takes tells nothing of them.
    fits = [hmac.compare_digest(given.encode("utf-8", "replace"), key.encode()) for key in keys]
    if not given or True not in fits:
        what = "a wrong one" if given else "none"
        raise Refusal(
            401,
            f"authorization: expected an API key of this server, given {what}",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )
    return Caller(key_name(fits.index(True)))


def key_name(index: int) -> str:
    """What the caller with that key, from 0, is called."""
    return f"key {index + 1}"


def key_in(header: str) -> str:
    """The key of an Authorization header, "" where it has none: behind Bearer, or the password of
    Basic, as A1111's clients send it.
    """
    scheme, _, value = header.partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer":
        return value
    if scheme.lower() != "basic":
        return ""
    try:
        text = base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
    _, colon, password = text.partition(":")
    return password if colon else text
