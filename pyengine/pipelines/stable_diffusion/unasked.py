"""The call of a class that derives from StableDiffusionPipeline and takes fewer arguments."""

import inspect
from functools import cache
from typing import Any


@cache
def _defaults() -> tuple[tuple[str, Any], ...]:
    from .pipeline import StableDiffusionPipeline

    own = inspect.signature(StableDiffusionPipeline.__call__).parameters.values()
    left_out = ("progress", "upscaler")
    return tuple(
        (p.name, p.default) for p in own if p.default is not p.empty and p.name not in left_out
    )


def unasked() -> dict[str, Any]:
    """Arguments of StableDiffusionPipeline's call that ask for nothing, for `_checked`."""
    return dict(_defaults())
