"""What is known of Stable Diffusion fine-tuned to draw variations of pictures."""

from ..common_parts import CLIP_PICTURES, CLIP_VISION, SCHEDULER, UNET, VAE
from ..registry import Family
from ..stable_diffusion.family import SD_INDEX

_HERE = "pyengine.pipelines.image_variation"
_BASE = "pyengine.pipelines.stable_diffusion"

IMAGE_VARIATION = Family(
    name="image_variation",
    title="latent diffusion: Stable Diffusion's variations of pictures",
    state="pictures like a picture; held to diffusers by tests",
    classes=("StableDiffusionImageVariationPipeline",),
    parts={
        "unet": UNET,
        "vae": VAE,
        "image_encoder": CLIP_VISION,
        "feature_extractor": CLIP_PICTURES,
        "scheduler": SCHEDULER,
    },
    unused=("safety_checker",),
    index=SD_INDEX,
    pipeline=f"{_HERE}.pipeline:StableDiffusionImageVariationPipeline",
    build=f"{_HERE}.build:build",
    main="unet",
    tasks={"image": f"{_HERE}.pipeline:StableDiffusionImageVariationPipeline"},
    rehearse=f"{_BASE}.rehearsal:rehearse",
    rank=13,
)
