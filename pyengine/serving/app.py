"""The app: surfaces over one engine. It holds no state of the process and no signal handlers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from .. import __version__
from ..engine import Engine
from . import errors, health
from .openai import images as openai_images
from .openai import models as openai_models
from .server import Server
from .settings import ServerSettings


def create_app(engine: Engine, settings: ServerSettings | None = None) -> FastAPI:
    """An ASGI app that serves an engine, which stays its maker's to close.

    app.state.server is the Server behind it.
    """
    server = Server(engine, settings or ServerSettings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            yield
        finally:
            server.close()

    # No docs_url: FastAPI's pages load scripts from elsewhere.
    app = FastAPI(title="pyengine", version=__version__, lifespan=lifespan, docs_url=None,
                  redoc_url=None)  # fmt: skip
    app.state.server = server
    errors.install(app)
    for router in (health.router, openai_models.router, openai_images.router):
        app.include_router(router)
    return app
