"""The call of a class that derives from one of Stable Diffusion's and takes fewer arguments."""

import inspect
from functools import cache
from typing import Any


@cache
def _defaults(xl: bool) -> tuple[tuple[str, Any], ...]:
    from .pipeline import StableDiffusionPipeline
    from .xl import StableDiffusionXLPipeline

    cls = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    own = inspect.signature(cls.__call__).parameters.values()
    left_out = ("progress", "upscaler")
    return tuple(
        (p.name, p.default) for p in own if p.default is not p.empty and p.name not in left_out
    )


def unasked(xl: bool = False) -> dict[str, Any]:
    """Arguments of StableDiffusionPipeline's call, or of StableDiffusionXLPipeline's, that ask for
    nothing, for `_checked`.
    """
    return dict(_defaults(xl))
