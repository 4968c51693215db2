"""Tiny checkpoints of Stable Diffusion's relatives that begin from pictures, as diffusers saves
them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import tiny

#: Of CLIP's embeddings of pictures, which the U-Net reads.
WIDTH = 20


def write_variation(folder: Path, *, image: dict | None = None, **unet) -> Path:
    """StableDiffusionImageVariationPipeline's parts; unet: over the tiny one's config."""
    import diffusers
    from transformers import CLIPImageProcessor

    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
    )
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


def make_latent_unet(seed: int = 12, **overrides):
    """A diffusers UNet2DConditionModel in the x2 latent upscaler's arrangement; its last layer is
    small, since a network of random weights gives more than latents are.
    """
    import diffusers

    config = {
        "act_fn": "gelu",
        "attention_head_dim": 8,
        "norm_num_groups": None,
        "block_out_channels": (32, 32, 64, 64),
        "time_cond_proj_dim": 128 + 32,
        "conv_in_kernel": 1,
        "conv_out_kernel": 1,
        "cross_attention_dim": 32,
        "down_block_types": ("KDownBlock2D", *("KCrossAttnDownBlock2D",) * 3),
        "up_block_types": (*("KCrossAttnUpBlock2D",) * 3, "KUpBlock2D"),
        "in_channels": 8,
        "out_channels": 5,
        "mid_block_type": None,
        "layers_per_block": 2,
        "resnet_time_scale_shift": "scale_shift",
        "time_embedding_type": "fourier",
        "timestep_post_act": "gelu",
        "sample_size": 16,
        **overrides,
    }
    return tiny.randomise(diffusers.UNet2DConditionModel(**config), seed)


def write_latent_upscaler(folder: Path, *, prediction: str = "original_sample", **unet) -> Path:
    """StableDiffusionLatentUpscalePipeline's parts; unet: over the tiny one's config."""
    import diffusers

    words = tiny.write_sd1(folder / "words")
    text = diffusers.StableDiffusionPipeline.from_pretrained(words, safety_checker=None)
    diffusers.StableDiffusionLatentUpscalePipeline(
        vae=text.vae,
        text_encoder=text.text_encoder,
        tokenizer=text.tokenizer,
        unet=make_latent_unet(**unet),
        scheduler=diffusers.EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type=prediction,
            timestep_spacing="linspace",
        ),
    ).save_pretrained(folder)
    shutil.rmtree(words)
    return folder
