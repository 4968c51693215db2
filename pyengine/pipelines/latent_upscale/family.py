"""What is known of Stable Diffusion's x2 latent upscaler."""

from ..registry import Family, Part
from ..stable_diffusion.family import PARTS

_HERE = "pyengine.pipelines.latent_upscale"

LATENT_UPSCALE = Family(
    name="latent_upscale",
    title="latent diffusion: Stable Diffusion's x2 latent upscaler",
    state="pictures twice as large from a picture or latents and a text; held to diffusers by"
    " tests",
    classes=("StableDiffusionLatentUpscalePipeline",),
    parts={
        **PARTS,
        "unet": Part(
            kind="model",
            library="diffusers",
            classes=("UNet2DConditionModel",),
            network="pyengine.models:LatentUpscalerUNet",
            summary=(
                "sample_size", "in_channels", "block_out_channels", "layers_per_block",
                "cross_attention_dim", "attention_head_dim", "time_cond_proj_dim",
            ),
        ),
    },
    unused=(),
    pipeline=f"{_HERE}.pipeline:StableDiffusionLatentUpscalePipeline",
    build=f"{_HERE}.build:build",
    main="unet",
    tasks={"image": f"{_HERE}.pipeline:StableDiffusionLatentUpscalePipeline"},
    rehearse=f"{_HERE}.rehearsal:rehearse",
    rank=13,
)  # fmt: skip
