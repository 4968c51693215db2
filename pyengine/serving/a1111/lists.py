"""What there is to choose from, by that web UI's names, and empty lists of what is not here."""

from typing import Any

from fastapi import APIRouter, Request

from ...schedules import SAMPLER_NAMES
from ..auth import Caller, KnownCaller
from ..samplers import samplers_of
from ..schema import Answer
from ..server import server_of
from . import schema
from .samplers import SCHEDULERS, label
from .state import callers_of

router = APIRouter(responses=schema.refusals())


class Checkpoint(Answer):
    """title, model_name, filename: its public name; no path of this machine. sha256, hash: of its
    weights, the first ten digits.
    """

    title: str
    model_name: str
    hash: str
    sha256: str
    filename: str
    config: None = None


class SamplerRow(Answer):
    """aliases: our name."""

    name: str
    aliases: list[str]
    options: dict[str, str]


class SchedulerRow(Answer):
    name: str
    label: str
    aliases: list[str] | None = None
    default_rho: float = -1.0
    need_inner_model: bool = False


class Upscaler(Answer):
    name: str
    model_name: str | None = None
    model_path: str | None = None
    model_url: str | None = None
    scale: float = 1.0


@router.get("/sd-models")
async def checkpoints(request: Request, caller: KnownCaller) -> list[Checkpoint]:
    """The models that are served."""
    models = server_of(request).models
    hashes = {name: models.pipeline(name).model_hash for name in models.names}
    return [
        Checkpoint(title=name, model_name=name, hash=found[:10], sha256=found, filename=name)
        for name, found in hashes.items()
    ]


@router.get("/samplers")
async def samplers(request: Request, caller: KnownCaller) -> list[SamplerRow]:
    """Those that draw with the model that the caller has chosen; all, where it has no samplers."""
    names = samplers_of(chosen_pipeline(request, caller)) or SAMPLER_NAMES
    return [SamplerRow(name=label(name), aliases=[name], options={}) for name in names]


def chosen_pipeline(request: Request, caller: Caller) -> Any:
    """That of the model which the caller has chosen."""
    models = server_of(request).models
    return models.pipeline(models.find(callers_of(request).options(caller).model))


@router.get("/schedulers")
async def schedulers(caller: KnownCaller) -> list[SchedulerRow]:
    """Spacings of a sampler's steps; not every sampler has each."""
    return [SchedulerRow(name=name, label=shown) for name, (shown, _) in SCHEDULERS.items()]


@router.get("/upscalers")
async def upscalers(caller: KnownCaller) -> list[Upscaler]:
    """None: a server loads nothing for a request."""
    return [Upscaler(name="None")]


@router.get("/sd-vae")
@router.get("/sd-modules", include_in_schema=False)
@router.get("/latent-upscale-modes")
@router.get("/hypernetworks", include_in_schema=False)
@router.get("/face-restorers", include_in_schema=False)
@router.get("/prompt-styles", include_in_schema=False)
@router.get("/script-info", include_in_schema=False)
async def nothing(caller: KnownCaller) -> list[Any]:
    """There is none here."""
    return []


class LoraRow(Answer):
    """path: the name; no path of this machine."""

    name: str
    alias: str
    path: str
    metadata: dict[str, str]


@router.get("/loras")
async def loras(request: Request, caller: KnownCaller) -> list[LoraRow]:
    """Those that prompts may name, of the model that the caller has chosen."""
    names = getattr(chosen_pipeline(request, caller), "lora_names", ())
    return [LoraRow(name=name, alias=name, path=name, metadata={}) for name in names]


@router.get("/embeddings")
async def embeddings(caller: KnownCaller) -> dict[str, dict[str, Any]]:
    """There are none here."""
    return {"loaded": {}, "skipped": {}}


@router.get("/scripts")
async def scripts(caller: KnownCaller) -> dict[str, list[str]]:
    """There are none here."""
    return {"txt2img": [], "img2img": []}


@router.post("/refresh-checkpoints")
@router.post("/refresh-vae", include_in_schema=False)
@router.post("/refresh-loras", include_in_schema=False)
async def refresh(caller: KnownCaller) -> None:
    """Nothing: models are those that the server was started with."""
