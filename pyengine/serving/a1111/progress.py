"""GET /sdapi/v1/progress, POST interrupt and skip: of the caller's own work."""

import time
from typing import Any

from fastapi import APIRouter, Request

from .. import pictures
from ..auth import Caller, KnownCaller
from ..schema import Answer
from ..server import server_of
from . import schema
from .state import Callers, Work, callers_of

router = APIRouter(responses=schema.refusals())


class State(Answer):
    """job_count: requests that are not done. The steps are those of the oldest."""

    skipped: bool = False
    interrupted: bool = False
    stopping_generation: bool = False
    job: str = ""
    job_count: int = 0
    job_timestamp: str = "0"
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0


class Progress(Answer):
    """progress: 0 to 1, of all of the caller's steps. eta_relative: seconds. current_image: base64
    of a PNG, the oldest request's first picture as it was last seen.
    """

    progress: float
    eta_relative: float
    state: State
    current_image: str | None
    textinfo: str | None


@router.get("/progress")
async def progress(
    request: Request, caller: KnownCaller, skip_current_image: bool = False
) -> Progress:
    """How far the caller's requests are; 0 and job_count 0 where there are none. Unless it is
    skipped, the picture is shown as it is after the next step, from the next time on.
    """
    work = callers_of(request).work(caller)
    if not work:
        return Progress(
            progress=0, eta_relative=0, state=State(), current_image=None, textinfo=None
        )
    done, total = map(sum, zip(*(one.steps for one in work), strict=True))
    share = min(1.0, done / total) if total else 0.0
    first = work[0]
    shown = None
    if not skip_current_image:
        first.drawing.job.ask_preview(quick=True)
        shown = await server_of(request).in_thread(_current, first)
    seconds = time.monotonic() - first.begun
    step, steps = first.steps
    state = State(
        interrupted=first.interrupted,
        stopping_generation=first.interrupted,
        job=f"{first.drawing.model} 0",
        job_count=len(work),
        job_timestamp=first.stamp,
        sampling_step=step,
        sampling_steps=steps,
    )
    left = seconds * (1 - share) / share if share else 0.0
    return Progress(
        progress=share, eta_relative=left, state=state, current_image=shown, textinfo=None
    )


@router.post("/interrupt")
async def interrupt(request: Request, caller: KnownCaller) -> dict[str, Any]:
    """Ends the caller's requests with their pictures as they are."""
    _interrupt(callers_of(request), caller)
    return {}


@router.post("/skip")
async def skip(request: Request, caller: KnownCaller) -> dict[str, Any]:
    """As interrupt: a request's pictures are drawn together, so there is none to go on to."""
    _interrupt(callers_of(request), caller)
    return {}


def _interrupt(callers: Callers, caller: Caller) -> None:
    for work in callers.work(caller):
        work.interrupt()


def _current(work: Work) -> str | None:
    shown = work.drawing.job.events.last("preview")
    if shown is None:
        return None
    return pictures.base64_of(pictures.encoded(shown.images[0], None))
