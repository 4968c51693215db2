"""What is known of DiT."""

from ..common_parts import SCHEDULER, VAE
from ..registry import Family, Part

_HERE = "pyengine.pipelines.dit"

DIT = Family(
    name="dit",
    title="latent diffusion by class: DiT",
    state="class to picture with guidance, every sampler; held to diffusers by tests",
    classes=("DiTPipeline",),
    parts={
        "transformer": Part(
            kind="model",
            library="diffusers",
            classes=("DiTTransformer2DModel", "Transformer2DModel"),
            network="pyengine.models:DiTTransformer2DModel",
            summary=(
                "sample_size", "patch_size", "in_channels", "out_channels", "num_layers",
                "num_attention_heads", "attention_head_dim", "num_embeds_ada_norm",
            ),
        ),
        "vae": VAE,
        "scheduler": SCHEDULER,
    },
    data=("id2label",),
    pipeline=f"{_HERE}.pipeline:DiTPipeline",
    build=f"{_HERE}.build:build",
    main="transformer",
    tasks={"text": f"{_HERE}.pipeline:DiTPipeline"},
    rehearse=f"{_HERE}.rehearsal:rehearse",
    rank=13,
)  # fmt: skip
