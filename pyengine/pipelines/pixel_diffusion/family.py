"""What is known of the project's own pixel diffusion by text."""

from ..common_parts import SCHEDULER
from ..registry import Family, Part

_HERE = "pyengine.pipelines.pixel_diffusion"

NETWORK = Part(
    kind="model",
    library="pyengine",
    classes=("PatchTransformer",),
    network="pyengine.models:PatchTransformer",
    summary=("sample_size", "patch_size", "in_channels", "width", "layers", "text_encoder"),
)

PIXEL_DIFFUSION = Family(
    name="pixel_diffusion",
    title="pixel diffusion by text: a transformer over patches",
    state="from text, every sampler, guidance by a classifier and by CLIP; emoji-ddpm, and what"
    " `pyengine train ddpm` makes",
    classes=("PixelDiffusionPipeline",),
    parts={"network": NETWORK, "scheduler": SCHEDULER},
    pipeline=f"{_HERE}.pipeline:PixelDiffusionPipeline",
    build=f"{_HERE}.build:build",
    main="network",
    tasks={"text": f"{_HERE}.pipeline:PixelDiffusionPipeline"},
    rehearse=f"{_HERE}.rehearsal:rehearse",
    rank=17,
)
