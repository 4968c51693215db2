"""Tiny checkpoints of Stable Diffusion's relatives that begin from pictures, as diffusers saves
them.
"""

from __future__ import annotations

from pathlib import Path

import tiny

#: Of CLIP's embeddings of pictures, which the U-Net reads.
WIDTH = 20


def write_variation(folder: Path, *, image: dict | None = None, **unet) -> Path:
    """StableDiffusionImageVariationPipeline's parts; unet: over the tiny one's config."""
    import diffusers
    from transformers import CLIPImageProcessor

    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True,
        steps_offset=1,
    )  # fmt: skip
    diffusers.StableDiffusionImageVariationPipeline(
        vae=tiny.make_vae(),
        image_encoder=tiny.make_image_encoder(**{"projection_dim": WIDTH, **(image or {})}),
        unet=tiny.make_unet(**{"layers_per_block": 1, "cross_attention_dim": WIDTH, **unet}),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder
