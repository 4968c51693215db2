"""Whether the server lives, and whether it takes requests. Neither needs a key."""

from fastapi import APIRouter, Request
from pydantic import BaseModel

from .errors import Refusal
from .schema import refusals
from .server import server_of

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """status: "ok"; models: public names of those that are loaded."""

    status: str
    models: list[str]


@router.get("/healthz")
async def healthz(request: Request) -> Health:
    """200 where the models are loaded."""
    return Health(status="ok", models=list(server_of(request).models.names))


@router.get("/readyz", responses={503: refusals()[503]})
async def readyz(request: Request) -> Health:
    """200 where it takes requests; 503 where it is ending."""
    if server_of(request).engine.closed:
        raise Refusal(503, "the server is ending", code="unavailable", retry_after=1.0)
    return await healthz(request)
