"""POST, GET and DELETE /v1/jobs, and their events: for clients that come back for the pictures."""

import hashlib
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from . import sse
from .auth import KnownCaller
from .bodies import read_json
from .errors import Refusal
from .kept import KEY_LENGTH, KeptJob
from .openai.fields import read
from .openai.images import admit
from .openai.schema import ImagesAnswer, generation_body
from .schema import Answer, ErrorDetails, refusals
from .server import server_of

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


class JobAnswer(Answer):
    """status: queued, running, succeeded, failed or cancelled. created_at, expires_at: seconds
    since 1970; a job that has ended is kept until then. place: in the queue, from 1. step of steps:
    that are done. result: as /v1/images/generations has it; error: as there.
    """

    id: str
    object: str = "job"
    status: str
    model: str
    created_at: int
    expires_at: int | None = None
    place: int | None = None
    step: int | None = None
    steps: int | None = None
    seeds: list[int]
    result: ImagesAnswer | None = None
    error: ErrorDetails | None = None


def responses(status: int, model: type[BaseModel] = JobAnswer) -> dict[int | str, Any]:
    return {status: {"model": model, "description": "The job."}, **refusals()}


def _body() -> dict[str, Any]:
    """That of a generation, how many previews the events have, and whether these are coarse."""
    found = generation_body()
    schema = found["requestBody"]["content"]["application/json"]["schema"]
    schema["properties"]["previews"] = {"type": ["integer", "null"], "minimum": 0}
    schema["properties"]["quick_previews"] = {"type": ["boolean", "null"]}
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "schema": {"type": "string", "minLength": 1, "maxLength": KEY_LENGTH},
    }
    return {**found, "parameters": [key]}


@router.post(
    "", status_code=202, responses=responses(202), openapi_extra=_body(), response_model=None
)
async def create(request: Request, caller: KnownCaller) -> Response:
    """A job for a generation, at once. The same Idempotency-Key with the same body is the same job,
    for as long as it is kept.
    """
    server = server_of(request)
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= KEY_LENGTH:
        raise Refusal(
            400,
            f"Idempotency-Key: expected 1 to {KEY_LENGTH} characters",
            "Idempotency-Key",
            "invalid_value",
        )
    body = await read_json(request)
    digest = hashlib.sha256(await request.body()).hexdigest()

    async def make() -> KeptJob:
        admit(request, caller)
        previews, quick = body.pop("previews", None), body.pop("quick_previews", None)
        asked = read(body)
        if asked.stream:
            raise Refusal(400, "stream: expected none: a job has events", "stream", "invalid_value")
        return await server.jobs.create(caller, asked, previews, quick)

    job, again = await server.jobs.once(caller, key, digest, make)
    request.state.log = {"model": job.drawing.model, "job": job.id}
    headers = {"location": f"/v1/jobs/{job.id}"}
    if again:
        headers["idempotent-replayed"] = "true"
    return JSONResponse(job.told(), 202, headers)


@router.get("/{job_id}", responses=responses(200), response_model=None)
async def get(request: Request, job_id: str, caller: KnownCaller) -> Response:
    """What has become of a job."""
    return JSONResponse(server_of(request).jobs.find(caller, job_id).told())


@router.delete("/{job_id}", responses=responses(200), response_model=None)
async def cancel(request: Request, job_id: str, caller: KnownCaller) -> Response:
    """Ends a job that has not ended; nothing else, and as often as one likes."""
    job = server_of(request).jobs.find(caller, job_id)
    await job.cancel()
    return JSONResponse(job.told())


@router.get(
    "/{job_id}/events",
    response_model=None,
    responses={
        200: {
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
            "description": "queued, started, step, preview, done, failed, cancelled",
        },
        **refusals(),
    },
)
async def events(request: Request, job_id: str, caller: KnownCaller) -> Response:
    """A job's events from the first on, or from the one after Last-Event-ID; the last ends it."""
    server = server_of(request)
    job = server.jobs.find(caller, job_id)
    last = request.headers.get("last-event-id", "").strip()
    if last and not (last.isascii() and last.isdigit() and len(last) < 19):
        raise Refusal(
            400, "Last-Event-ID: expected the id of an event", "Last-Event-ID", "invalid_value"
        )
    settings = server.settings
    return sse.EventStream(_events(job, int(last or 0)), settings.ping, settings.idle)


async def _events(job: KeptJob, last: int) -> AsyncGenerator[bytes, None]:
    async for number, name, data in job.follow(last):
        yield sse.event({"type": name, **data}, name, number)
