"""The app: surfaces over one engine. It holds no state of the process and no signal handlers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from .. import __version__
from ..engine import Engine
from . import a1111, errors, health, jobs, metrics, page, schema
from .a1111.state import Callers
from .admission import Admission
from .gate import Gate
from .openai import images as openai_images
from .openai import models as openai_models
from .server import Server
from .settings import ServerSettings
from .warmup import warm_up

#: The surfaces.
ROUTERS = (
    health.router,
    metrics.router,
    openai_models.router,
    openai_images.router,
    jobs.router,
    a1111.router,
    page.router,
)


def create_app(engine: Engine, settings: ServerSettings | None = None) -> FastAPI:
    """An ASGI app that serves an engine, which stays its maker's to close.

    app.state.server is the Server behind it.
    """
    server = Server(engine, settings or ServerSettings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if server.settings.warm_up:
            await warm_up(engine)
        try:
            yield
        finally:
            await server.close()

    # No docs_url: FastAPI's pages load scripts from elsewhere.
    # Nor FastAPI's own spans, which newer versions have: ours, of tracing.py, know jobs too.
    app = FastAPI(
        title="pyengine",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "operation_spans": False, "logs": False},
    )
    app.state.server = server
    app.state.a1111 = Callers()
    errors.install(app)
    schema.install(app, keys=bool(server.settings.api_keys))
    for router in ROUTERS:
        app.include_router(router)
    if server.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(server.settings.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id"],
        )
    # The middleware that is added last is the outermost.
    app.add_middleware(Gate, server=server, admit=Admission(server))
    return app
