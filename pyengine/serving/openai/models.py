"""GET /v1/models."""

import time

from fastapi import APIRouter, Request
from pydantic import BaseModel

from ..auth import KnownCaller
from ..schema import refusals
from ..server import server_of

router = APIRouter(prefix="/v1", tags=["models"])
_STARTED = int(time.time())


class Model(BaseModel):
    """A model that is served. created: when the server was started, seconds since 1970."""

    id: str
    object: str = "model"
    created: int = _STARTED
    owned_by: str = "pyengine"


class Models(BaseModel):
    object: str = "list"
    data: list[Model]


@router.get("/models", responses=refusals())
async def models(request: Request, caller: KnownCaller) -> Models:
    """The models that a request may name."""
    return Models(data=[Model(id=name) for name in server_of(request).models.names])


@router.get("/models/{name}", responses=refusals())
async def model(request: Request, name: str, caller: KnownCaller) -> Model:
    """One of them; 404 for another."""
    return Model(id=server_of(request).models.find(name))
