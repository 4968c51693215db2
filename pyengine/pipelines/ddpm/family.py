"""What is known of pixel diffusion: DDPM and DDIM checkpoints."""

from ..common_parts import SCHEDULER
from ..registry import Family, Part

_HERE = "pyengine.pipelines.ddpm"

PARTS = {
    "unet": Part(
        kind="model",
        library="diffusers",
        classes=("UNet2DModel",),
        network="pyengine.models:UNet2DModel",
        summary=(
            "sample_size", "in_channels", "out_channels", "block_out_channels", "layers_per_block",
            "attention_head_dim", "num_class_embeds",
        ),
    ),
    "scheduler": SCHEDULER,
}  # fmt: skip

DDPM = Family(
    name="ddpm",
    title="pixel diffusion: DDPM, improved DDPM (learned variance)",
    state="from noise, class-conditional too, every sampler; folders of google/ddpm-*; held to"
    " diffusers by tests",
    classes=("DDPMPipeline",),
    parts=PARTS,
    flat=True,
    pipeline=f"{_HERE}.pipeline:DDPMPipeline",
    build=f"{_HERE}.build:build",
    main="unet",
    takes_parts=True,
    tasks={"text": f"{_HERE}.pipeline:DDPMPipeline"},
    rehearse=f"{_HERE}.rehearsal:rehearse",
    rank=14,
)

DDIM = Family(
    name="ddim",
    title="pixel diffusion: DDIM",
    state="from noise in 50 steps, with any eta; held to diffusers by tests",
    classes=("DDIMPipeline",),
    parts=PARTS,
    flat=True,
    pipeline=f"{_HERE}.pipeline:DDPMPipeline",
    build=f"{_HERE}.build:build",
    main="unet",
    defaults=f"{_HERE}.pipeline:DDIMDefaults",
    takes_parts=True,
    tasks={"text": f"{_HERE}.pipeline:DDIMPipeline"},
    rehearse=f"{_HERE}.rehearsal:rehearse",
    rank=15,
)
