"""pyengine: a sampling engine for image generators.

    import pyengine
    pipe = pyengine.from_pretrained()          # the model that ships; or a folder, a file, a Hub id
    pipe("a red heart", seed=1).images[0].save("heart.png")

Heavy imports (torch) happen on first use, not here.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import errors, images, metadata, models, ops, pipelines, schedules, weights
    from .pipelines import from_pretrained

#: Modules that `import pyengine` alone makes reachable.
_MODULES = (
    "errors", "images", "metadata", "models", "ops", "pipelines", "schedules", "weights",
)  # fmt: skip
#: Names at the top -> the module that has them.
_NAMES = {"from_pretrained": "pipelines"}

__all__ = [
    "__version__",
    "errors",
    "from_pretrained",
    "images",
    "metadata",
    "models",
    "ops",
    "pipelines",
    "schedules",
    "weights",
]

if not TYPE_CHECKING:  # or pyengine.nothing would have a type

    def __getattr__(name: str) -> object:
        """Imports what is asked for by name, so that `import pyengine` takes no time."""
        import importlib

        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        if name in _NAMES:
            found = getattr(importlib.import_module(f"{__name__}.{_NAMES[name]}"), name)
            globals()[name] = found
            return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
