"""`upscaler=` in a call: its pictures, enlarged after they are decoded.

The upscalers' pipeline is found by its name: it is made of what this module is a part of.
"""

import os
from functools import partial
from typing import Any

import torch

from ..errors import RequestError
from ..jobs.request import Enlarger, Requested
from ..weights.layout import find
from ..weights.text import show
from .kept import Kept

_PIPELINE = "pyengine.pipelines.upscale.pipeline:UpscalePipeline"


def find_upscaler(value: Any, device: torch.device, kept: Kept) -> Enlarger | None:
    """The UpscalePipeline that a call's argument names: one that is loaded, or a file or folder,
    which is loaded for `device` where `kept` has it not; None for None. Raises RequestError for
    anything else.
    """
    if value is None:
        return None
    pipeline = find(_PIPELINE)
    if isinstance(value, pipeline):
        found: Enlarger = value
        return found
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise RequestError(
            f"upscaler: expected a file, a folder or an UpscalePipeline, given {show(value)}"
        )
    load = partial(pipeline.from_pretrained, value, device=device)
    loaded: Enlarger = kept.get("upscaler", value, device, load)
    return loaded


def check_upscaler(upscaler: Enlarger | None, r: Requested) -> None:
    """Raises RequestError where a request's pictures are too large to be enlarged, or are none."""
    if upscaler is None:
        return
    if r.output_type == "latent":
        raise RequestError("upscaler: expected None for output_type 'latent', given one")
    try:
        upscaler.check_sizes([(r.height, r.width)] * r.count, one_size=True)
    except RequestError as e:
        raise RequestError(f"upscaler: {e}") from None


def upscaled(upscaler: Enlarger, images: Any, output_type: str) -> Any:
    """A call's pictures, or one of them, enlarged, as they came: see PipelineOutput.images."""
    one = not isinstance(images, list) and getattr(images, "ndim", 3) == 3
    made = upscaler([images] if one else images, output_type=output_type, progress=False).images
    return made[0] if one else made
