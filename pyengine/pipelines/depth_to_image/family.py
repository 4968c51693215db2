"""What is known of Stable Diffusion's depth-to-image model."""

from ...weights.layout import UNUSED
from ..registry import Family
from ..stable_diffusion.family import PARTS

_HERE = "pyengine.pipelines.depth_to_image"
_BASE = "pyengine.pipelines.stable_diffusion"

DEPTH_TO_IMAGE = Family(
    name="depth_to_image",
    title="latent diffusion: Stable Diffusion 2's depth-to-image",
    state="pictures from a picture, a text and a depth map that is given; held to diffusers by"
    " tests",
    classes=("StableDiffusionDepth2ImgPipeline",),
    parts=PARTS,
    # The network that estimates depth, which pyengine lacks: the caller gives the map.
    unused=(*UNUSED, "depth_estimator"),
    pipeline=f"{_HERE}.pipeline:StableDiffusionDepth2ImgPipeline",
    build=f"{_BASE}.build:build",
    main="unet",
    takes_parts=True,
    tasks={"image": f"{_HERE}.pipeline:StableDiffusionDepth2ImgPipeline"},
    rehearse=f"{_BASE}.rehearsal:rehearse",
    rank=13,
)
