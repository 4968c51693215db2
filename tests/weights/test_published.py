"""The published models' sizes: files of nothing but a header, in the original layout.

The configs are those of the diffusers folders of Stable Diffusion 1.5, 2.1, XL base 1.0 and
its refiner.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from original_layout import original_tensors
from whole import CLASSES

from pyengine.errors import CheckpointError
from pyengine.weights import load_module, resolve

DOWN = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
UP = ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}
PUBLISHED = {
    "sd1": {
        "unet": {
            "sample_size": 64,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": [320, 640, 1280, 1280],
            "layers_per_block": 2,
            "down_block_types": DOWN,
            "up_block_types": UP,
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
        },
        "vae": {**VAE, "sample_size": 512, "scaling_factor": 0.18215},
        "text_encoder": CLIP_L,
    },
    "sd2": {
        "unet": {
            "sample_size": 96,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": [320, 640, 1280, 1280],
            "layers_per_block": 2,
            "down_block_types": DOWN,
            "up_block_types": UP,
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
        },
        "vae": {**VAE, "sample_size": 768, "scaling_factor": 0.18215},
        "text_encoder": {
            **CLIP_L,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 23,
            "num_attention_heads": 16,
            "hidden_act": "gelu",
            "projection_dim": 1024,
        },
    },
    "sdxl": {
        "unet": {
            "sample_size": 128,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": [320, 640, 1280],
            "layers_per_block": 2,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "use_linear_projection": True,
            "transformer_layers_per_block": [1, 2, 10],
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        "vae": {**VAE, "sample_size": 1024, "scaling_factor": 0.13025},
        "text_encoder": CLIP_L,
        "text_encoder_2": {
            **CLIP_L,
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "hidden_act": "gelu",
            "projection_dim": 1280,
        },
    },
    "refiner": {
        "unet": {
            "sample_size": 128,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": [384, 768, 1536, 1536],
            "layers_per_block": 2,
            "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2, "DownBlock2D"],
            "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
            "cross_attention_dim": 1280,
            "attention_head_dim": [6, 12, 24, 24],
            "use_linear_projection": True,
            "transformer_layers_per_block": [1, 4, 4, 4],  # published as 4: the first has none
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2560,
        },
        "vae": {**VAE, "sample_size": 1024, "scaling_factor": 0.13025},
        "text_encoder_2": {
            **CLIP_L,
            "hidden_size": 1280,
            "intermediate_size": 5120,
            "num_hidden_layers": 32,
            "num_attention_heads": 20,
            "hidden_act": "gelu",
            "projection_dim": 1280,
        },
    },
}
# As the papers and model cards count them: U-Net, autoencoder, text encoders.
PARAMETERS = {
    "sd1": 859_520_964 + 83_653_863 + 123_060_480,
    "sd2": 865_910_724 + 83_653_863 + 340_387_840,
    "sdxl": 2_567_463_684 + 83_653_863 + 123_060_480 + 694_659_840,
    "refiner": 2_259_526_660 + 83_653_863 + 694_659_840,
}


def write_header_only(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """A sparse float16 safetensors file with these shapes."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        size = 2 * tensor.numel()
        header[name] = {
            "dtype": "F16",
            "shape": list(tensor.shape),
            "data_offsets": [end, end + size],
        }
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with open(path, "r+b") as f:
        f.truncate(8 + len(text) + end)
    return path


@pytest.mark.parametrize("family", PUBLISHED)
def test_published_sizes(family, tmp_path):
    configs = PUBLISHED[family]
    modules = {name: CLASSES[name].from_config(config) for name, config in configs.items()}
    states = {name: module.state_dict() for name, module in modules.items()}
    assert sum(p.numel() for s in states.values() for p in s.values()) == PARAMETERS[family]
    tensors = original_tensors(states, configs["unet"], family)
    checkpoint = resolve(write_header_only(tmp_path / "model.safetensors", tensors))
    assert checkpoint.family == family
    for name, config in configs.items():
        shown = checkpoint.config(name)
        assert {key: shown[key] for key in config} == config
        # Names and shapes are all compared before anything is read; nothing is read here.
        ours = CLASSES[name].from_config(shown)
        with pytest.raises(NothingRead):
            load_module(ours, Unread(checkpoint.tensors(name)))


class NothingRead(Exception):  # noqa: N818
    """All comparisons passed, and the first tensor was asked for."""


class Unread:
    def __init__(self, source):
        self._source = source

    def __getattr__(self, name):
        return getattr(self._source, name)

    def __iter__(self):
        return iter(self._source)

    def read(self, *_):
        raise NothingRead


def test_unread_reports_what_does_not_fit(tmp_path):
    """That the test above can fail."""
    config = PUBLISHED["sd1"]["text_encoder"]
    states = {
        name: CLASSES[name].from_config(PUBLISHED["sd1"][name]).state_dict()
        for name in PUBLISHED["sd1"]
    }
    tensors = original_tensors(states, PUBLISHED["sd1"]["unet"], "sd1")
    checkpoint = resolve(write_header_only(tmp_path / "model.safetensors", tensors))
    other = CLASSES["text_encoder"].from_config({**config, "intermediate_size": 3071})
    with pytest.raises(CheckpointError, match="36 misshapen"):
        load_module(other, Unread(checkpoint.tensors("text_encoder")))
