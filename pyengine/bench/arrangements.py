"""Checkpoints with random weights in published arrangements, for `pyengine bench pipeline`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..models import AutoencoderKL, BigGAN, DCGANGenerator, DiTTransformer2DModel, UNet2DModel
from . import checkpoints
from .random_weights import write_json, write_model

DDPM_SCHEDULER: dict[str, Any] = {
    "_class_name": "DDPMScheduler",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "clip_sample": True,
    "num_train_timesteps": 1000,
    "variance_type": "fixed_large",
}
#: facebook/DiT-XL-2-256's, and a width for --quick.
DIT: dict[str, Any] = {
    "_class_name": "DiTTransformer2DModel",
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 28,
    "sample_size": 32,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
}
TINY_DIT = {
    **DIT,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_layers": 2,
    "sample_size": 8,
}
DIT_SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "clip_sample": False,
    "num_train_timesteps": 1000,
}
#: Of PyTorch's example for 64x64 pixels.
DCGAN: dict[str, Any] = {
    "model_type": "dcgan",
    "latent_channels": 100,
    "block_out_channels": [512, 256, 128, 64],
    "out_channels": 3,
}
#: BigGAN-deep for 128x128 pixels, as pytorch-pretrained-biggan has it.
BIGGAN: dict[str, Any] = {
    "output_dim": 128,
    "z_dim": 128,
    "class_embed_dim": 128,
    "channel_width": 128,
    "num_classes": 1000,
    "layers": [
        [False, 16, 16], [True, 16, 16], [False, 16, 16], [True, 16, 8], [False, 8, 8],
        [True, 8, 4], [False, 4, 4], [True, 4, 2], [False, 2, 2], [True, 2, 1],
    ],
    "attention_layer_position": 8,
    "eps": 1e-4,
    "n_stats": 51,
}  # fmt: skip
TINY_BIGGAN = {**BIGGAN, "channel_width": 8, "num_classes": 10}


def _sd15(folder: Path, quick: bool) -> None:
    checkpoints.write_pipeline(folder, quick)


def _ddpm(folder: Path, quick: bool) -> None:
    config = checkpoints.UNETS["ddpm"][quick]
    write_model(folder / "unet", UNet2DModel, config, torch.float32, seed=1, last="conv_out")
    _index(folder, "DDPMPipeline", DDPM_SCHEDULER, unet="UNet2DModel")


def _dit(folder: Path, quick: bool) -> None:
    config, vae = (TINY_DIT, checkpoints.TINY_VAE) if quick else (DIT, checkpoints.VAE)
    place = folder / "transformer"
    write_model(place, DiTTransformer2DModel, config, torch.float32, seed=1, last="proj_out_2")
    write_model(folder / "vae", AutoencoderKL, vae, torch.float32, seed=2)
    _index(
        folder,
        "DiTPipeline",
        DIT_SCHEDULER,
        transformer="DiTTransformer2DModel",
        vae="AutoencoderKL",
    )


def _dcgan(folder: Path, quick: bool) -> None:
    config = {**DCGAN, "block_out_channels": [32, 16, 8, 8]} if quick else DCGAN
    write_model(folder, DCGANGenerator, config, torch.float32, seed=6, weights="model.safetensors")


def _biggan(folder: Path, quick: bool) -> None:
    config = TINY_BIGGAN if quick else BIGGAN
    write_model(folder, BigGAN, config, torch.float32, seed=7, weights="model.safetensors")


def _index(folder: Path, pipeline: str, scheduler: dict[str, Any], **networks: str) -> None:
    """model_index.json and the scheduler's config."""
    parts = {name: ["diffusers", kind] for name, kind in networks.items()}
    parts["scheduler"] = ["diffusers", scheduler["_class_name"]]
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    write_json(folder / "model_index.json", {"_class_name": pipeline, **parts})


_WRITERS: dict[str, Callable[[Path, bool], None]] = {
    "sd15": _sd15,
    "ddpm": _ddpm,
    "dit": _dit,
    "biggan": _biggan,
    "dcgan": _dcgan,
}
#: What `--arrangement` may be.
NAMES = tuple(_WRITERS)


def write(folder: Path, name: str, quick: bool = False) -> Path:
    """A checkpoint of NAMES in a folder of its own within `folder`, unless it is there."""
    place = folder / f"{name}{'-quick' if quick else ''}"
    _WRITERS[name](place, quick)
    return place
