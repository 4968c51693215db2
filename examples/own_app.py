"""A FastAPI app of one's own around an engine.

uvicorn --app-dir examples own_app:app
curl --output heart.png "http://127.0.0.1:8000/draw?prompt=a+red+heart&seed=1"

For OpenAI's API, jobs, limits and metrics mount pyengine.serving.create_app(engine), or run
`pyengine serve`.
"""

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request, Response

import pyengine
from pyengine.engine import EngineJob
from pyengine.errors import PyengineError, RefusedError
from pyengine.pipelines import PipelineOutput


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with pyengine.Engine("emoji", max_waiting=32) as engine:  # drains as the server ends
        app.state.engine = engine
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/draw")
async def draw(request: Request, prompt: str, seed: int = 0, steps: int = 20) -> Response:
    engine = request.app.state.engine
    try:
        job = engine.submit(prompt=prompt, seed=seed, num_inference_steps=steps, deadline=30)
    except RefusedError as e:  # full, or too late: when to come again
        later = {"Retry-After": str(max(1, round(e.retry_after)))}
        raise HTTPException(429, str(e), headers=later) from None
    except PyengineError as e:  # an argument that cannot be used
        raise HTTPException(422, str(e)) from None
    picture = io.BytesIO()
    (await finished(job, request)).images[0].save(picture, "PNG")
    return Response(picture.getvalue(), media_type="image/png")


async def finished(job: EngineJob, request: Request) -> PipelineOutput:
    """The job's output; a client that goes before cancels it."""

    async def wait() -> PipelineOutput:
        output: PipelineOutput = await job
        return output

    waiting = asyncio.create_task(wait())
    while not (await asyncio.wait({waiting}, timeout=0.1))[0]:
        if await request.is_disconnected():
            job.cancel()
    try:
        return waiting.result()
    except PyengineError as e:
        raise HTTPException(409, str(e)) from None
