"""Folders of small random autoencoders that stand in a latent pipeline's place for one."""

from __future__ import annotations

from pathlib import Path

import tiny

TINY = {
    "encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4,
    "num_encoder_blocks": (1, 1, 1, 1), "num_decoder_blocks": (1, 1, 1, 1),
}  # fmt: skip
ASYMMETRIC = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "down_block_out_channels": [4, 8, 8, 12],
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "up_block_out_channels": [8, 16, 32, 32],
    "layers_per_up_block": 2,
    "norm_num_groups": 4,
    "sample_size": 32,
}


def write_tiny(folder: Path, seed: int = 9) -> Path:
    """diffusers' AutoencoderTiny."""
    import diffusers

    tiny.randomise(diffusers.AutoencoderTiny(**TINY), seed).save_pretrained(folder)
    return folder


def write_asymmetric(folder: Path, seed: int = 5) -> Path:
    """diffusers' AsymmetricAutoencoderKL."""
    import diffusers

    made = tiny.randomise(diffusers.AsymmetricAutoencoderKL(**ASYMMETRIC), seed)
    made.save_pretrained(folder)
    return folder
