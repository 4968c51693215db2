"""POST /sdapi/v1/png-info: the settings that a picture carries."""

from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Request

from ...errors import RequestError
from ...metadata import A1111_CHUNK, CHUNK, MAX_CHUNK, read_image
from .. import pictures
from ..auth import KnownCaller
from ..bodies import read_json
from ..schema import Answer
from ..server import server_of
from ..settings import ServerSettings
from . import infotext, schema

router = APIRouter(responses=schema.refusals())


class PngInfo(Answer):
    """info: the text that that web UI writes, "" where there is none. items: the texts of a file:
    `parameters`, and `pyengine`, JSON that was checked. parameters: those of info, by name.
    """

    info: str
    items: dict[str, str]
    parameters: dict[str, str]


@router.post("/png-info", openapi_extra=schema.picture_body())
async def png_info(request: Request, caller: KnownCaller) -> PngInfo:
    """The settings that a picture carries: of ours or of others that write the same text."""
    server = server_of(request)
    given = await read_json(request)
    return await server.in_thread(_read, given.get("image"), server.settings)


def _read(image: Any, settings: ServerSettings) -> PngInfo:
    opened = pictures.opened(pictures.from_text(image, "image", settings), "image", settings)
    items: dict[str, str] = {}
    text = opened.info.get(A1111_CHUNK)
    if isinstance(text, str) and len(text) <= MAX_CHUNK:
        items[A1111_CHUNK] = text.encode("utf-8", "replace").decode()
    if CHUNK in opened.info:
        with suppress(RequestError):  # somebody else's chunk of that name
            items[CHUNK] = read_image(opened, "image").to_json()
    info = items.get(A1111_CHUNK, "")
    return PngInfo(info=info, items=items, parameters=infotext.parse(info))
