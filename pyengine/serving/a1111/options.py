"""GET and POST /sdapi/v1/options, and cmd-flags."""

from typing import Any

from fastapi import APIRouter, Request

from ..auth import Caller, KnownCaller
from ..bodies import read_json
from ..schema import Answer
from ..server import server_of
from . import schema
from .state import UNCHANGED, callers_of

router = APIRouter(responses=schema.refusals())


class Changed(Answer):
    """ignored: names of options that mean nothing here."""

    ignored: list[str]


@router.get("/options")
async def options(request: Request, caller: KnownCaller) -> dict[str, Any]:
    """What the caller has chosen, and options that are what they are."""
    return _options(request, caller)


@router.post("/options", openapi_extra=schema.options_body())
async def change(request: Request, caller: KnownCaller) -> Changed:
    """Chooses a model, CLIP's last layer or a kind of file, for this caller's requests."""
    callers, models = callers_of(request), server_of(request).models
    found, ignored = callers.options(caller).changed(await read_json(request), models)
    callers.choose(caller, found)
    return Changed(ignored=ignored)


@router.get("/cmd-flags")
async def flags(caller: KnownCaller) -> dict[str, Any]:
    """None of that web UI's."""
    return {}


def _options(request: Request, caller: Caller) -> dict[str, Any]:
    models, chosen = server_of(request).models, callers_of(request).options(caller)
    name = models.find(chosen.model)
    return {
        **UNCHANGED,
        "sd_model_checkpoint": name,
        "sd_checkpoint_hash": models.pipeline(name).model_hash,
        "CLIP_stop_at_last_layers": chosen.CLIP_stop_at_last_layers,
        "samples_format": chosen.samples_format,
    }
