"""What is known of the project's own pixel cascade."""

from ..common_parts import SCHEDULER
from ..pixel_diffusion.family import NETWORK
from ..registry import Family

_HERE = "pyengine.pipelines.pixel_cascade"

PIXEL_CASCADE = Family(
    name="pixel_cascade",
    title="pixel cascade by text: 32x32, then 64x64 beside it",
    state="from text; emoji-cascade, and what `pyengine train cascade` makes",
    classes=("PixelCascadePipeline",),
    parts={"base": NETWORK, "super_res": NETWORK, "scheduler": SCHEDULER},
    pipeline=f"{_HERE}.pipeline:PixelCascadePipeline",
    build=f"{_HERE}.build:build",
    main="base",
    tasks={"text": f"{_HERE}.pipeline:PixelCascadePipeline"},
    rehearse=f"{_HERE}.build:rehearse",
    rank=17,
)
