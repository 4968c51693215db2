"""A drawing as OpenAI's stream of events: partial images, each of its step, and the end."""

import time
from collections.abc import AsyncGenerator
from typing import Any

from ...errors import PyengineError
from .. import pictures, sse
from ..drawing import Drawing
from ..errors import openai_body, refusal_of
from ..server import Server, log
from .fields import Asked
from .usage import usage_of


def events_of(server: Server, drawing: Drawing, asked: Asked, kind: str) -> sse.EventStream:
    """The answer. kind: "image_generation" or "image_edit"."""
    settings = server.settings
    return sse.EventStream(_events(server, drawing, asked, kind), settings.ping, settings.idle)


async def _events(
    server: Server, drawing: Drawing, asked: Asked, kind: str
) -> AsyncGenerator[bytes, None]:
    """Ends with a completed event for each picture, or with an error; the client takes a stream
    that is cut off for one that is whole.
    """
    shown = 0
    try:
        async for event in drawing.job:
            if event.type == "preview":
                for piece in await server.in_thread(_partial, drawing, asked, kind, shown, event):
                    yield piece
                shown += 1
            elif event.type == "done":
                for piece in await server.in_thread(_completed, drawing, asked, kind, event.output):
                    yield piece
            elif event.error is not None:
                yield _error(server.told(event.error))
    except Exception as e:
        log.error("stream failed", exc_info=e)
        yield _error(e)
    finally:
        drawing.job.cancel()  # nothing, where it has ended


def _error(error: Exception) -> bytes:
    """Without a name: the client takes events named "error" for ones that it does not know."""
    if not isinstance(error, PyengineError):
        log.error("job failed", exc_info=error)
    return sse.event(openai_body(refusal_of(error)))


def _partial(drawing: Drawing, asked: Asked, kind: str, index: int, event: Any) -> list[bytes]:
    """The pictures after a step; they have the settings of no picture, since none draws them."""
    width, height = event.images[0].size
    return [
        sse.event(
            {
                **_head(f"{kind}.partial_image", asked, f"{width}x{height}"),
                "b64_json": pictures.base64_of(
                    pictures.encoded(image, None, asked.output_format, asked.compression)
                ),
                "partial_image_index": index,
                "image_index": which,
                "step": event.step,
                "steps": event.steps,
            },
            f"{kind}.partial_image",
        )
        for which, image in enumerate(event.images)
    ]


def _completed(drawing: Drawing, asked: Asked, kind: str, output: Any) -> list[bytes]:
    files = drawing.files(output, asked.output_format, asked.compression)
    size = f"{output.report.width}x{output.report.height}"
    return [
        sse.event(
            {
                **_head(f"{kind}.completed", asked, size),
                "b64_json": pictures.base64_of(data),
                "image_index": which,
                "seed": output.seeds[which],
                "usage": usage_of(drawing, output, first=which == 0, count=1),
            },
            f"{kind}.completed",
        )
        for which, data in enumerate(files)
    ]


def _head(name: str, asked: Asked, size: str) -> dict[str, Any]:
    return {
        "type": name,
        "created_at": int(time.time()),
        "size": size,
        "quality": asked.quality,
        "background": "opaque",
        "output_format": asked.output_format,
    }
