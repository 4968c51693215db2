"""GET / and the files of the page, and /page/models.json, from which it makes its inputs."""

import hashlib
from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response

from ..auth import KnownCaller
from ..errors import Refusal
from ..schema import refusals
from ..server import server_of
from .inputs import PageInputs, inputs_of

router = APIRouter()

FOLDER = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
#: Nothing from elsewhere, and nothing that a text could bring in; pictures come as base64.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:;"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@cache
def files() -> dict[str, tuple[bytes, str, str]]:
    """(bytes, content type, tag) of the page's files, by name. Only these are served."""
    return {
        path.name: (
            path.read_bytes(),
            f"{TYPES[path.suffix]}; charset=utf-8",
            f'"{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}"',
        )
        for path in FOLDER.iterdir()
        if path.suffix in TYPES
    }


def _file(request: Request, name: str) -> Response:
    if name not in files():
        raise Refusal(404, "the page has no such file", code="not_found")
    data, kind, tag = files()[name]
    headers = {"etag": tag, "cache-control": "no-cache", "content-security-policy": POLICY}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(data, headers={**headers, "content-type": kind})


@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    """The page, which needs no key; what it asks for does."""
    return _file(request, "index.html")


@router.get("/page/models.json", tags=["page"], responses=refusals())
async def models(request: Request, caller: KnownCaller) -> PageInputs:
    """What each model can be asked, from the table of arguments, and the server's limits."""
    server = server_of(request)
    return await server.in_thread(inputs_of, server.models, server.settings)


@router.get("/page/{name}", include_in_schema=False)
async def file(request: Request, name: str) -> Response:
    """A file of the page."""
    return _file(request, name)
