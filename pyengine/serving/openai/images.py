"""POST /v1/images/generations, edits and variations."""

import time
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from .. import pictures
from ..auth import Caller, KnownCaller
from ..bodies import content_type, read_form, read_json
from ..drawing import Drawing
from ..server import Server, server_of
from ..watch import result_of
from .edits import decoded, from_form, from_json, of_variation
from .fields import Asked, read
from .schema import answers, edit_body, generation_body, variation_body
from .stream import events_of
from .usage import usage_of

router = APIRouter(prefix="/v1/images", tags=["images"])


@router.post(
    "/generations",
    responses=answers("image_generation"),
    openapi_extra=generation_body(),
    response_model=None,
)
async def generations(request: Request, caller: KnownCaller) -> Response:
    """Pictures of a prompt. Fields beyond OpenAI's are arguments of pyengine's calls."""
    server = admit(request, caller)
    return await draw(request, server, caller, read(await read_json(request)), "image_generation")


@router.post(
    "/edits", responses=answers("image_edit"), openapi_extra=edit_body(), response_model=None
)
async def edits(request: Request, caller: KnownCaller) -> Response:
    """Pictures that begin from another; where there is a mask, only its transparent part is new."""
    server = admit(request, caller)
    if content_type(request) == "application/json":
        body = await read_json(request)
        given = await server.in_thread(from_json, body, server.settings)
    else:
        given = from_form(await read_form(request))
    asked = await server.in_thread(read_edit, given, server)
    return await draw(request, server, caller, asked, "image_edit")


@router.post(
    "/variations", responses=answers(None), openapi_extra=variation_body(), response_model=None
)
async def variations(request: Request, caller: KnownCaller) -> Response:
    """Pictures like another."""
    server = admit(request, caller)
    given = of_variation(from_form(await read_form(request)))
    asked = await server.in_thread(read_edit, given, server)
    asked.stream = False
    return await draw(request, server, caller, asked, "image_generation")


def read_edit(given: Mapping[str, Any], server: Server) -> Asked:
    """The request with its pictures decoded: that takes time."""
    return read(decoded(given, server.settings))


def admit(request: Request, caller: Caller) -> Server:
    """The server, where it may take another request of the caller. Raises Refusal."""
    server = server_of(request)
    server.rates.check(caller.name)
    server.drawings.check_room(caller)
    return server


async def draw(
    request: Request, server: Server, caller: Caller, asked: Asked, kind: str
) -> Response:
    """The answer to a checked request. kind: how the events of a stream begin."""
    drawing = await submit(request, server, caller, asked)
    if asked.stream:
        return events_of(server, drawing, asked, kind)
    output = await result_of(request, drawing.job)
    return JSONResponse(await server.in_thread(answer_of, drawing, output, asked))


async def submit(request: Request, server: Server, caller: Caller, asked: Asked) -> Drawing:
    context = server.tracing.context()
    previews = asked.partial_images if asked.stream else 0
    drawing = await server.in_thread(
        lambda: server.drawings.submit(
            caller,
            asked.model,
            asked.call,
            previews=previews,
            deadline=asked.deadline,
            names=asked.names,
            context=context,
        )
    )
    request.state.log = {"model": drawing.model}
    return drawing


def answer_of(drawing: Drawing, output: Any, asked: Asked) -> dict[str, Any]:
    """What OpenAI's client is given, of a job that is done."""
    files = drawing.files(output, asked.output_format, asked.compression)
    prompt = drawing.call.get("prompt")
    return {
        "created": int(time.time()),
        "data": [
            {**picture_of(data, asked), "revised_prompt": prompt, "seed": seed}
            for data, seed in zip(files, output.seeds, strict=True)
        ],
        **described(output, asked),
        "usage": usage_of(drawing, output),
    }


def described(output: Any, asked: Asked) -> dict[str, Any]:
    """What answers and events say of the pictures."""
    return {
        "size": f"{output.report.width}x{output.report.height}",
        "quality": asked.quality,
        "output_format": asked.output_format,
        "background": "opaque",
    }


def picture_of(data: bytes, asked: Asked) -> dict[str, str]:
    """A picture as it was asked for. A URL holds the picture itself: it needs no key, and any
    server of several can have drawn it.
    """
    if asked.response_format == "url":
        return {"url": pictures.data_url(data, asked.output_format)}
    return {"b64_json": pictures.base64_of(data)}
