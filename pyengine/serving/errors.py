"""One place that turns what goes wrong into an answer: a status, and words in a surface's shape.

A surface is a part of the paths: OpenAI's shape is the default, A1111's stands under /sdapi.
"""

import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ..errors import (
    BusyError,
    CancelledError,
    DeadlineError,
    NotFiniteError,
    OutOfMemoryError,
    PyengineError,
    QueueFullError,
    RefusedError,
    UnavailableError,
)

log = logging.getLogger("pyengine.serving")

#: nginx's status of a request whose client went before the answer: nobody gets it, the log does.
GONE = 499
#: The field that an error's words begin with: "num_inference_steps: expected ...".
_FIELD = re.compile(r"([A-Za-z_]\w{0,63}(?:\[\d{0,4}\])?)(?:, [A-Za-z_]\w{0,63})*: ")


@dataclass(eq=False)
class Refusal(Exception):  # noqa: N818 - an answer, which somebody raises
    """An answer that is none of what was asked for.

    status: of HTTP. param: the field at fault. code: a word for programs. retry_after: seconds
    after which to come again; again: whether coming again may help at all.
    """

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after: float | None = None
    again: bool | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.message)

    @property
    def type(self) -> str:
        """OpenAI's word for the kind of error."""
        if self.status == 401:
            return "authentication_error"
        if self.status == 403:
            return "permission_error"
        if self.status == 404:
            return "not_found_error"
        if self.status == 429:
            return "rate_limit_error"
        return "server_error" if self.status >= 500 else "invalid_request_error"

    @property
    def reason(self) -> str:
        """A word for counters: the code, or the status."""
        return self.code or str(self.status)

    def all_headers(self) -> dict[str, str]:
        """With Retry-After, and x-should-retry where OpenAI's client would not know by itself."""
        headers = dict(self.headers)
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.again is not None:
            headers["x-should-retry"] = "true" if self.again else "false"
        return headers


def refusal_of(error: BaseException) -> Refusal:
    """What an error is to a client. Of an error that is none of ours it says nothing: a path or a
    piece of somebody's prompt may be in it.
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, RequestValidationError):
        return _of_validation(error)
    if isinstance(error, HTTPException):
        return _of_http(error)
    if isinstance(error, ClientDisconnect):
        return Refusal(GONE, "the client has gone", code="client_gone")
    if not isinstance(error, PyengineError):
        return Refusal(
            500, "the server has made a mistake; its log has it", code="internal_error", again=False
        )
    text = str(error)
    found = _FIELD.match(text)
    param = found[1] if found else None
    if isinstance(error, QueueFullError):
        return Refusal(429, text, code="queue_full", retry_after=error.retry_after)
    if isinstance(error, DeadlineError):
        return Refusal(408, text, "deadline", "deadline", error.retry_after, again=False)
    if isinstance(error, CancelledError):
        return Refusal(409, text, code="cancelled", again=False)
    if isinstance(error, RefusedError | BusyError):
        return Refusal(429, text, param, "busy", getattr(error, "retry_after", 1.0))
    if isinstance(error, UnavailableError):
        return Refusal(503, "the server is ending", code="unavailable", retry_after=1.0)
    if isinstance(error, OutOfMemoryError):
        return Refusal(413, text, code="too_large")
    if isinstance(error, NotFiniteError):
        return Refusal(422, text, code="not_finite")
    return Refusal(400, text, param, "invalid_value")


def renamed(error: Exception, names: Mapping[str, str]) -> Exception:
    """A refusal that calls its field what the client does. names: by argument."""
    if not isinstance(error, Refusal | PyengineError):
        return error
    refusal = refusal_of(error)
    name = names.get(refusal.param or "")
    if name is not None:
        refusal.message = f"{name}: {refusal.message.removeprefix(f'{refusal.param}: ')}"
        refusal.param = name
    return refusal


def _of_http(error: HTTPException) -> Refusal:
    headers = dict(error.headers or {})
    codes = {404: "not_found", 405: "method_not_allowed"}
    return Refusal(
        error.status_code, str(error.detail), code=codes.get(error.status_code), headers=headers
    )


def _of_validation(error: RequestValidationError) -> Refusal:
    first: Mapping[str, Any] = error.errors()[0] if error.errors() else {}
    place = [str(part) for part in first.get("loc", ())]
    name = place[-1] if len(place) > 1 else "body"
    return Refusal(422, f"{name}: {first.get('msg', 'cannot be read')}", name, "invalid_value")


# --- shapes ---------------------------------------------------------------------------------------


def openai_body(refusal: Refusal) -> dict[str, Any]:
    """{"error": {message, type, param, code}}: all four keys, always."""
    return {
        "error": {
            "message": refusal.message,
            "type": refusal.type,
            "param": refusal.param,
            "code": refusal.code,
        }
    }


def a1111_body(refusal: Refusal) -> dict[str, Any]:
    """{error, detail, body, errors}, as that web UI's API has it."""
    return {
        "error": refusal.type,
        "detail": refusal.message,
        "body": "",
        "errors": refusal.message,
    }


#: Shapes by the beginning of the path; the first that fits.
SURFACES: tuple[tuple[str, Callable[[Refusal], dict[str, Any]]], ...] = (
    ("/sdapi", a1111_body),
    ("", openai_body),
)


def body_of(refusal: Refusal, path: str) -> dict[str, Any]:
    shape = next(shape for begin, shape in SURFACES if path.startswith(begin))
    return shape(refusal)


def answer(refusal: Refusal, path: str) -> JSONResponse:
    return JSONResponse(body_of(refusal, path), refusal.status, refusal.all_headers())


def install(app: FastAPI) -> None:
    """Has the app answer all its errors so."""

    async def handle(request: Request, error: Exception) -> JSONResponse:
        refusal = refusal_of(error)
        request.state.refusal = refusal
        return answer(refusal, request.url.path)

    for kind in (Refusal, PyengineError, HTTPException, RequestValidationError, ClientDisconnect):
        app.add_exception_handler(kind, handle)
