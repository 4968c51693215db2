"""Bodies of requests, read and checked: JSON objects, and forms with files."""

from dataclasses import dataclass, field
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from ..errors import RequestError
from ..weights.jsonio import parse_object
from .errors import Refusal
from .server import server_of

#: Values and levels of a JSON body.
MAX_VALUES = 20_000
MAX_DEPTH = 16
#: Fields and files of a form, and bytes of a field that is no file.
MAX_FIELDS = 128
MAX_FILES = 20
MAX_FIELD = 1 << 20
#: Bytes of JSON that take longer to parse, some 0.2 ms, than to hand to a thread.
LARGE = 65_536


@dataclass
class Form:
    """fields: texts by name, of which the last counts. files: bytes by name, in order."""

    fields: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)


def content_type(request: Request) -> str:
    """Without its parameters, in lower case."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object of a body. Raises Refusal (415 where it is said to be something else, which
    a page of another site can send without asking) or RequestError.
    """
    if content_type(request) != "application/json":
        raise Refusal(
            415, "content-type: expected application/json", "content-type", "unsupported_media_type"
        )
    data = await request.body()
    if len(data) < LARGE:
        return _parsed(data)
    return await server_of(request).in_thread(_parsed, data)


def _parsed(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = parse_object(
        data, "body", max_depth=MAX_DEPTH, max_values=MAX_VALUES, error=RequestError
    )
    return found


async def read_form(request: Request) -> Form:
    """The fields and files of a multipart form. Raises Refusal."""
    if content_type(request) != "multipart/form-data":
        raise Refusal(
            415,
            "content-type: expected multipart/form-data",
            "content-type",
            "unsupported_media_type",
        )
    form = Form()
    try:
        async with request.form(
            max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD
        ) as parts:
            for name, value in parts.multi_items():
                if isinstance(value, UploadFile):
                    form.files.setdefault(name, []).append(await value.read())
                else:
                    form.fields[name] = value
    except HTTPException as e:  # starlette's, in words of its own
        raise Refusal(400, f"body: {e.detail}", "body", "invalid_form") from None
    return form
