"""HTTP over an engine: OpenAI's images API, A1111's, jobs, a page, health and metrics.

It needs the extra `serve`.

app = create_app(pyengine.Engine("emoji"), ServerSettings(api_keys=("secret",)))   # FastAPI

`pyengine serve` runs it; docs/serving.md tells what a server answers.
"""

from typing import TYPE_CHECKING

from .settings import ServerSettings

if TYPE_CHECKING:
    from .app import create_app

__all__ = ["ServerSettings", "create_app"]

if not TYPE_CHECKING:  # FastAPI is imported with the app, not with its settings

    def __getattr__(name: str) -> object:
        if name == "create_app":
            from .app import create_app

            return create_app
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
