"""pyengine: a sampling engine for image generators.

    import pyengine
    pipe = pyengine.from_pretrained()          # the model that ships; or a folder, a file, a Hub id
    pipe("a red heart", seed=1).images[0].save("heart.png")

Heavy imports (torch) happen on first use, not here.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .pipelines import from_pretrained

__all__ = ["__version__", "from_pretrained"]


def __getattr__(name: str):
    if name == "from_pretrained":
        from .pipelines import from_pretrained

        return from_pretrained
    raise AttributeError(f"module 'pyengine' has no attribute {name!r}")
