"""Damaged checkpoints that draw from pictures: variations, and the x2 latent upscaler."""

from __future__ import annotations

import torch
from damage import case, edit_json, edit_tensors

from pyengine.errors import ConfigError

VARIATION, LATENT = "image_variation_folder", "latent_upscale_folder"
VISION = "image_encoder/model.safetensors"


@case("projection_dim is 1000000, expected 1 to 16384", base=VARIATION, error=ConfigError)
def variation_of_embeddings_wider_than_memory(folder):
    edit_json(folder / "image_encoder/config.json", lambda d: d.update(projection_dim=10**6))


@case("image_size", base=VARIATION, error=ConfigError)
def variation_of_pictures_larger_than_memory(folder):
    edit_json(folder / "image_encoder/config.json", lambda d: d.update(image_size=10**9))


@case(
    "crop_size 64x64.*expected .* 32x32|crop_size 64x64 is more", base=VARIATION, error=ConfigError
)
def variation_of_other_crops(folder):
    edit_json(
        folder / "feature_extractor/preprocessor_config.json",
        lambda d: d.update(crop_size={"height": 64, "width": 64}),
    )


@case("missing: .*visual_projection", base=VARIATION)
def variation_without_its_projection(folder):
    edit_tensors(folder, lambda t: t.pop("visual_projection.weight"), VISION)


@case("StableDiffusionImageVariationPipeline needs image_encoder too", base=VARIATION)
def variation_without_an_encoder(folder):
    edit_json(folder / "model_index.json", lambda d: d.pop("image_encoder"))


@case("would run code", base=VARIATION, error=ConfigError)
def variation_with_code(folder):
    edit_json(folder / "image_encoder/config.json", lambda d: d.update(auto_map={"A": "evil.M"}))


def _unet(message, **change):
    def register(function):
        def damage(folder):
            edit_json(folder / "unet/config.json", lambda d: d.update(change))

        damage.__name__ = function.__name__
        return case(message, base=LATENT, error=ConfigError)(damage)

    return register


@_unet("unknown keys 'flux'", flux=1)
def latent_upscaler_with_an_unknown_key():
    pass


@_unet("block_out_channels", block_out_channels=[10**9] * 4)
def latent_upscaler_wider_than_memory():
    pass


@_unet(
    "residual blocks in all, at most 256",
    layers_per_block=32,
    block_out_channels=[32] * 14 + [64] * 2,
    up_block_types=["KCrossAttnUpBlock2D"] * 16,
    down_block_types=["KCrossAttnDownBlock2D"] * 16,
)
def latent_upscaler_deeper_than_anyone_builds():
    pass


@_unet("time_cond_proj_dim is 8192, expected 160", time_cond_proj_dim=8192)
def latent_upscaler_of_a_longer_condition():
    pass


@_unet("attention_head_dim", attention_head_dim=0)
def latent_upscaler_of_no_heads():
    pass


@_unet("act_fn", act_fn="silu")
def latent_upscaler_of_another_activation():
    pass


@case("missing: 'time_proj.weight'", base=LATENT)
def latent_upscaler_without_its_frequencies(folder):
    edit_tensors(folder, lambda t: t.pop("time_proj.weight"))


@case("misshapen.*'time_proj.weight' is", base=LATENT)
def latent_upscaler_of_other_frequencies(folder):
    edit_tensors(folder, lambda t: t.update({"time_proj.weight": torch.zeros(7)}))


@case("prediction_type", base=LATENT, error=ConfigError)
def latent_upscaler_that_predicts_noise(folder):
    edit_json(
        folder / "scheduler/scheduler_config.json", lambda d: d.update(prediction_type="epsilon")
    )
