"""What is known of Stable Diffusion's x4 upscaler."""

from ...weights.layout import UNUSED
from ..common_parts import SCHEDULER
from ..registry import Family
from ..stable_diffusion.family import PARTS

_HERE = "pyengine.pipelines.stable_diffusion_upscale"
_BASE = "pyengine.pipelines.stable_diffusion"

STABLE_DIFFUSION_UPSCALE = Family(
    name="stable_diffusion_upscale",
    title="latent diffusion: Stable Diffusion's x4 upscaler",
    state="pictures four times as large from a picture and a text; held to diffusers by tests",
    classes=("StableDiffusionUpscalePipeline",),
    parts={**PARTS, "low_res_scheduler": SCHEDULER},
    unused=(*UNUSED, "watermarker"),
    data=("max_noise_level",),
    pipeline=f"{_HERE}.pipeline:StableDiffusionUpscalePipeline",
    build=f"{_HERE}.build:build",
    main="unet",
    tasks={"image": f"{_HERE}.pipeline:StableDiffusionUpscalePipeline"},
    rehearse=f"{_BASE}.rehearsal:rehearse",
    rank=13,
)
