"""SDXL's refiner as a single file: the same as its folder."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from original_layout import write_original

import pyengine
from pyengine.weights import resolve

#: As WIDE in original_layout.py: 64 channels a head, no attention at the ends.
UNET = {
    "block_out_channels": (32, 64, 128, 128),
    "norm_num_groups": 32,
    "attention_head_dim": (1, 1, 2, 2),
    "transformer_layers_per_block": (1, 2, 2, 2),
    "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
    "layers_per_block": 1,
    "cross_attention_dim": 128,
    "projection_class_embeddings_input_dim": 128 + 5 * 8,
}
TEXT = {"hidden_size": 128, "num_attention_heads": 2, "projection_dim": 128}
VAE = {"block_out_channels": (32, 32, 64, 64), "norm_num_groups": 32}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(folder, file) of the same weights."""
    root = tmp_path_factory.mktemp("refiner")
    folder = tiny.write_refiner(root / "folder", unet=UNET, vae=VAE, text_2=TEXT)
    tiny.write_tokenizer(root / "file" / "tokenizer_2", pad_token="!")
    return folder, write_original(folder, root / "file" / "model.safetensors", "refiner")


def test_it_is_the_folder(both):
    folder, file = map(resolve, both)
    assert file.pipeline_class == folder.pipeline_class == "StableDiffusionXLImg2ImgPipeline"
    assert sorted(file.components) == sorted(folder.components)
    assert "text_encoder" not in file.components
    for key in ("requires_aesthetics_score", "force_zeros_for_empty_prompt"):
        assert file.options[key] == folder.options[key]
    for name in ("unet", "vae", "text_encoder_2"):
        saved = folder.config(name)
        for key, value in file.config(name).items():
            assert key == "sample_size" or value == saved[key], (name, key)


def test_it_draws_the_folders_picture(both):
    photo = np.linspace(0, 1, 32 * 32 * 3, dtype=np.float32).reshape(32, 32, 3)
    call = {
        "image": photo,
        "seed": 3,
        "num_inference_steps": 4,
        "strength": 0.5,
        "output_type": "np",
    }
    pictures = [
        pyengine.from_pretrained(path, device="cpu")("a red heart", **call).images for path in both
    ]
    assert np.array_equal(*pictures)
