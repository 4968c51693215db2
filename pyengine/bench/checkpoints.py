"""Checkpoints with random weights of Stable Diffusion 1.5, XL's U-Net and LlamaGen: their configs.

The names and layout are diffusers', so that the engine and its peers load the same files.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from ..models import (
    AutoencoderKL,
    CLIPTextModel,
    PictureGPT,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from ..models.base import Model
from ..pipelines.loading import shipped_folder
from .random_weights import write_json, write_model

UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
}
#: Stable Diffusion XL's; the decoder differs from 1.5's in its scaling factor alone.
SDXL_UNET: dict[str, Any] = {
    **UNET,
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
    "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,  # a text's vector of 1280, and six numbers
}
VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
TEXT: dict[str, Any] = {
    "architectures": ["CLIPTextModel"],
    "model_type": "clip_text_model",
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
    "bos_token_id": 3070,  # of the shipped tokenizer, which serves a random model too
    "eos_token_id": 3071,
}
SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
#: LlamaGen-B's (Sun et al. 2024, arXiv:2406.06525): 111M parameters, 24x24 of 16,384 tokens, and
#: its VQGAN, 16 pixels a side for each. Four more ids: text, begin, padding.
GPT: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 16384 + 4,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 24 * 24 + 4,
    "tie_word_embeddings": False,
}
#: LlamaGen-XL's: 775M parameters. Feed-forward layers are 2/3 of 4 * 1280 wide, rounded up to 256.
GPT_XL: dict[str, Any] = {
    **GPT,
    "hidden_size": 1280,
    "intermediate_size": 3584,
    "num_hidden_layers": 36,
    "num_attention_heads": 20,
}
VQ: dict[str, Any] = {
    "_class_name": "VQModel",
    "block_out_channels": [128, 128, 256, 256, 512],
    "down_block_types": [*["DownEncoderBlock2D"] * 4, "AttnDownEncoderBlock2D"],
    "up_block_types": ["AttnUpDecoderBlock2D", *["UpDecoderBlock2D"] * 4],
    "latent_channels": 256,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "num_vq_embeddings": 16384,
    "vq_embed_dim": 8,
    "sample_size": 384,
}
INDEX: dict[str, Any] = {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": [None, None],
    "safety_checker": [None, None],
    "requires_safety_checker": False,
    "scheduler": ["diffusers", "DDIMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}

#: The same architectures at sizes that load and run in milliseconds, for --quick.
TINY_UNET = {
    **UNET,
    "sample_size": 8,
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}
TINY_SDXL_UNET = {
    **SDXL_UNET,
    "sample_size": 8,
    "block_out_channels": [16, 32],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "transformer_layers_per_block": [1, 2],
    "attention_head_dim": [2, 4],
    "cross_attention_dim": 32,
    "norm_num_groups": 8,
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 32 + 6 * 8,
}
TINY_VAE = {
    **VAE,
    "block_out_channels": [8, 8, 16, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 64,
}
TINY_TEXT = {
    **TEXT,
    "vocab_size": 3072,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 32,
}
TINY_GPT = {
    **GPT,
    "vocab_size": 40 + 4,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 3 * 3 + 4,
}
TINY_VQ = {
    **VQ,
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
    "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
    "latent_channels": 8,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "num_vq_embeddings": 40,
    "sample_size": 6,
}

#: google/ddpm-cifar10-32.
DDPM_UNET: dict[str, Any] = {
    "_class_name": "UNet2DModel",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "layers_per_block": 2,
    "norm_eps": 1e-6,
    "sample_size": 32,
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
TINY_DDPM_UNET = {
    **DDPM_UNET,
    "block_out_channels": [16, 24, 24, 32],
    "layers_per_block": 1,
    "norm_num_groups": 8,
}

#: unCLIP's decoder, in the arrangement of Karlo's.
UNCLIP_UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "attention_head_dim": 64,
    "block_out_channels": [320, 640, 960, 1280],
    "class_embed_type": "identity",
    "cross_attention_dim": 1536,
    "down_block_types": ["ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3],
    "in_channels": 3,
    "layers_per_block": 3,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "out_channels": 6,
    "resnet_time_scale_shift": "scale_shift",
    "sample_size": 64,
    "up_block_types": [*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"],
}
TINY_UNCLIP_UNET = {
    **UNCLIP_UNET,
    "attention_head_dim": 16,
    "block_out_channels": [16, 32, 32, 48],
    "cross_attention_dim": 24,
    "layers_per_block": 1,
    "norm_num_groups": 8,
}

#: Of DeepFloyd IF's first stage, in the arrangement and widths of IF-I-M.
IF_UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "gelu",
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 64,
    "attention_head_dim": 64,
    "block_out_channels": [192, 384, 576, 768],
    "cross_attention_dim": 768,
    "cross_attention_norm": "group_norm",
    "down_block_types": ["ResnetDownsampleBlock2D", *["SimpleCrossAttnDownBlock2D"] * 3],
    "encoder_hid_dim": 4096,
    "encoder_hid_dim_type": "text_proj",
    "in_channels": 3,
    "layers_per_block": 3,
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
    "norm_num_groups": 32,
    "out_channels": 6,
    "resnet_time_scale_shift": "scale_shift",
    "sample_size": 64,
    "up_block_types": [*["SimpleCrossAttnUpBlock2D"] * 3, "ResnetUpsampleBlock2D"],
}
TINY_IF_UNET = {
    **IF_UNET,
    "addition_embed_type_num_heads": 4,
    "attention_head_dim": 16,
    "block_out_channels": [32, 64],
    "cross_attention_dim": 32,
    "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
    "encoder_hid_dim": 24,
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "sample_size": 16,
    "up_block_types": ["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
}

#: The U-Nets that `pyengine bench unet --model` knows, as they are and at a size for --quick.
UNETS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "sd15": (UNET, TINY_UNET),
    "sdxl": (SDXL_UNET, TINY_SDXL_UNET),
    "ddpm": (DDPM_UNET, TINY_DDPM_UNET),
    "unclip": (UNCLIP_UNET, TINY_UNCLIP_UNET),
    "if": (IF_UNET, TINY_IF_UNET),
}
#: The sizes that `pyengine bench token --model-size` knows.
GPTS = {"b": (GPT, TINY_GPT), "xl": (GPT_XL, {**TINY_GPT, "num_hidden_layers": 3})}


def write_gpt(
    folder: Path, quick: bool = False, dtype: torch.dtype = torch.float16, size: str = "b"
) -> Path:
    """A folder that PictureGPT.from_pretrained reads, and transformers' LlamaForCausalLM."""
    config = GPTS[size][quick]
    return write_model(folder, PictureGPT, config, dtype, seed=4, weights="model.safetensors")


def write_vq(folder: Path, quick: bool = False, dtype: torch.dtype = torch.float16) -> Path:
    """A folder that VQModel.from_pretrained reads, ours and diffusers'."""
    return write_model(folder, VQModel, TINY_VQ if quick else VQ, dtype, seed=5)


def write_unet(
    folder: Path, quick: bool = False, dtype: torch.dtype = torch.float32, model: str = "sd15"
) -> Path:
    """A folder that the U-Net's class reads, ours and diffusers'."""
    return write_model(folder, unet_class(model), UNETS[model][quick], dtype, seed=1)


def unet_class(model: str) -> type[Model]:
    """Of one of UNETS: that without a text, or that with."""
    return UNet2DModel if model == "ddpm" else UNet2DConditionModel


def write_vae(folder: Path, quick: bool = False, dtype: torch.dtype = torch.float32) -> Path:
    """A folder that AutoencoderKL.from_pretrained reads, ours and diffusers'."""
    return write_model(folder, AutoencoderKL, TINY_VAE if quick else VAE, dtype, seed=2)


def write_pipeline(folder: Path, quick: bool = False, dtype: torch.dtype = torch.float16) -> Path:
    """A whole Stable Diffusion 1.5 folder; 2.1 GB in float16."""
    write_unet(folder / "unet", quick, dtype)
    write_vae(folder / "vae", quick, dtype)
    text = TINY_TEXT if quick else TEXT
    write_model(
        folder / "text_encoder", CLIPTextModel, text, dtype, seed=3, weights="model.safetensors"
    )
    write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    tokenizer = folder / "tokenizer"
    shutil.copytree(shipped_folder() / "tokenizer", tokenizer, dirs_exist_ok=True)
    config = json.loads((tokenizer / "tokenizer_config.json").read_text())
    write_json(tokenizer / "tokenizer_config.json", {**config, "model_max_length": 77})
    write_json(folder / "model_index.json", INDEX)
    return folder
