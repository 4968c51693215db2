"""`upscaler=` in a call: its pictures, enlarged after they are decoded."""

import os
from typing import TYPE_CHECKING, Any

import torch

from ..errors import RequestError
from ..weights.text import show

if TYPE_CHECKING:
    from .upscale.pipeline import UpscalePipeline


def find_upscaler(value: Any, device: torch.device) -> "UpscalePipeline | None":
    """The upscaler that a call's argument names: one that is loaded, or a file or folder, which is
    loaded for `device`; None for None. Raises RequestError for anything else.
    """
    if value is None:
        return None
    from .upscale.pipeline import UpscalePipeline

    if isinstance(value, UpscalePipeline):
        return value
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise RequestError(
            f"upscaler: expected a file, a folder or an UpscalePipeline, given {show(value)}"
        )
    found: UpscalePipeline = UpscalePipeline.from_pretrained(value, device=device)
    return found


def check_upscaler(upscaler: "UpscalePipeline | None", r: Any) -> None:
    """Raises RequestError where a request's pictures are too large to be enlarged, or are none."""
    if upscaler is None:
        return
    if r.output_type == "latent":
        raise RequestError("upscaler: expected None for output_type 'latent', given one")
    try:
        upscaler._check_sizes([(r.height, r.width)] * r.count, one_size=True)
    except RequestError as e:
        raise RequestError(f"upscaler: {e}") from None


def upscaled(upscaler: "UpscalePipeline", images: Any, output_type: str) -> Any:
    """A call's pictures, or one of them, enlarged, as they came: see PipelineOutput.images."""
    one = not isinstance(images, list) and getattr(images, "ndim", 3) == 3
    made = upscaler([images] if one else images, output_type=output_type, progress=False).images
    return made[0] if one else made
