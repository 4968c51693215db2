"""Many machines: pictures for Ray Data's datasets, and an engine per replica behind Ray Serve.

rows = pyengine.ray.generate(ray.data.read_parquet("prompts"), model="emoji")
serve.run(pyengine.ray.deployment("emoji", "emoji-ar", replicas=2))

Needs the extra `ray`, which is imported by the functions that use it (docs/ray.md).
"""

from typing import TYPE_CHECKING

from .data import generate
from .seeds import seed_of

if TYPE_CHECKING:
    from .deploy import deployment

__all__ = ["deployment", "generate", "seed_of"]

if not TYPE_CHECKING:  # it needs the extra `serve`, generate does not

    def __getattr__(name: str) -> object:
        if name == "deployment":
            from .deploy import deployment

            return deployment
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
