"""POST /v1/images/generations."""

import time
from typing import Any

from fastapi import APIRouter, Request

from .. import pictures
from ..auth import KnownCaller
from ..bodies import read_json
from ..server import server_of
from .fields import Asked, read

router = APIRouter(prefix="/v1/images", tags=["images"])


@router.post("/generations")
async def generations(request: Request, caller: KnownCaller) -> dict[str, Any]:
    """Pictures of a prompt."""
    server = server_of(request)
    server.drawings.check_room()
    asked = read(await read_json(request))
    drawing = await server.in_thread(
        lambda: server.drawings.submit(caller, asked.model, asked.call, deadline=asked.deadline)
    )
    output = await drawing.job
    files = await server.in_thread(drawing.files, output, asked.output_format, asked.compression)
    return {
        "created": int(time.time()),
        "data": [
            {**_picture(data, asked), "seed": seed, "revised_prompt": asked.call.get("prompt")}
            for data, seed in zip(files, output.seeds, strict=True)
        ],
        "size": f"{output.report.width}x{output.report.height}",
        "output_format": asked.output_format,
    }


def _picture(data: bytes, asked: Asked) -> dict[str, str]:
    if asked.response_format == "url":
        return {"url": pictures.data_url(data, asked.output_format)}
    return {"b64_json": pictures.base64_of(data)}
