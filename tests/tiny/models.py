"""Tiny models with random weights, of diffusers' and transformers' classes."""

from __future__ import annotations

import torch

from .words import VOCAB_SIZE


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Draws every parameter anew: matrices of variance 1 / fan_in, norms near 1, biases near 0."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in sorted(model.named_parameters()):
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float32)
        if p.dim() >= 2 and "embedding.weight" in name:
            value = 0.3 * noise
        elif p.dim() >= 2:
            value = noise / (p[0].numel() ** 0.5)
        elif name.endswith("weight"):
            value = 1 + 0.2 * noise
        else:
            value = 0.1 * noise
        p.copy_(value)
    return model.eval()


def make_text_encoder(seed: int = 1, *, projection: bool = False, **overrides):
    """A transformers CLIPTextModel (or ...WithProjection) with 3 layers of 2 heads."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "projection_dim": 32,
        "bos_token_id": VOCAB_SIZE - 2,
        "eos_token_id": VOCAB_SIZE - 1,
        **overrides,
    }
    cls = CLIPTextModelWithProjection if projection else CLIPTextModel
    return randomise(cls(CLIPTextConfig(**config)), seed)


def make_image_encoder(seed: int = 6, **overrides):
    """A transformers CLIPVisionModelWithProjection with 3 layers of 2 heads over 16 patches."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = {
        "hidden_size": 24,
        "intermediate_size": 56,
        "projection_dim": 20,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 8,
        "hidden_act": "quick_gelu",
        **overrides,
    }
    return randomise(CLIPVisionModelWithProjection(CLIPVisionConfig(**config)), seed)


def make_unet(seed: int = 2, **overrides):
    """A diffusers UNet2DConditionModel in SD 1.x's arrangement."""
    from diffusers import UNet2DConditionModel

    config = {
        "sample_size": 8,
        "block_out_channels": (16, 32),
        "layers_per_block": 2,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "norm_num_groups": 8,
        "cross_attention_dim": 32,
        "attention_head_dim": 2,
        **overrides,
    }
    return randomise(UNet2DConditionModel(**config), seed)


def make_unet2d(seed: int = 12, **overrides):
    """A diffusers UNet2DModel in the arrangement of google/ddpm-*, with heads of 8 channels."""
    from diffusers import UNet2DModel

    config = {
        "sample_size": 16,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 8,
        "attention_head_dim": 8,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
        **overrides,
    }
    return randomise(UNet2DModel(**config), seed)


def make_dit(seed: int = 13, **overrides):
    """A diffusers DiTTransformer2DModel with 2 layers of 3 heads over 8x8 latents."""
    from diffusers import DiTTransformer2DModel

    config = {
        "num_attention_heads": 3,
        "attention_head_dim": 8,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 2,
        "sample_size": 8,
        **overrides,
    }
    return randomise(DiTTransformer2DModel(**config), seed)


def make_vae(seed: int = 3, **overrides):
    """A diffusers AutoencoderKL with factor 8."""
    from diffusers import AutoencoderKL

    config = {
        "block_out_channels": (8, 8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 1,
        "norm_num_groups": 4,
        "sample_size": 64,
        **overrides,
    }
    return randomise(AutoencoderKL(**config), seed)


def make_vq(seed: int = 4, **overrides):
    """A diffusers VQModel with factor 2 and a codebook of 40 entries."""
    from diffusers import VQModel

    config = {
        "block_out_channels": (8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "latent_channels": 4,
        "num_vq_embeddings": 40,
        "norm_num_groups": 4,
        **overrides,
    }
    model = randomise(VQModel(**config), seed)
    # As wide as what is compared with it, or a few entries would be nearest to everything.
    model.quantize.embedding.weight.data.mul_(3)
    return model


def make_uvit(seed: int = 5, **overrides):
    """A diffusers UVit2DModel over the codebook of `make_vq`; token 40 is the mask."""
    from diffusers import UVit2DModel

    config = {
        "hidden_size": 24,
        "cond_embed_dim": 32,
        "micro_cond_encode_dim": 6,
        "micro_cond_embed_dim": 30,
        "encoder_hidden_size": 32,
        "vocab_size": 44,
        "codebook_size": 40,
        "in_channels": 20,
        "block_out_channels": 16,
        "num_res_blocks": 1,
        "block_num_heads": 2,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 28,
        "sample_size": 6,
        **overrides,
    }
    return randomise(UVit2DModel(**config), seed)


def make_image_gpt(seed: int = 6, **overrides):
    """A transformers ImageGPTForCausalImageModeling: 16 clusters, 24 positions."""
    from transformers import ImageGPTConfig, ImageGPTForCausalImageModeling

    config = {
        "vocab_size": 17,
        "n_positions": 24,
        "n_embd": 12,
        "n_layer": 2,
        "n_head": 3,
        **overrides,
    }
    return randomise(ImageGPTForCausalImageModeling(ImageGPTConfig(**config)), seed)


def make_janus(seed: int = 8, *, vocab_size: int = 600, text=None, vq=None, side: int = 3):
    """A transformers JanusForConditionalGeneration: 30 tokens, side x side of them a picture."""
    from transformers import (
        JanusConfig,
        JanusForConditionalGeneration,
        JanusVisionConfig,
        JanusVQVAEConfig,
        LlamaConfig,
    )

    text = {
        "vocab_size": vocab_size,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 80,
        **(text or {}),
    }
    vision = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "image_size": 2 * side,
        "patch_size": 2,
        "projection_dim": text["hidden_size"],
        "num_image_tokens": side * side,
    }
    vq = {
        "embed_dim": 5,
        "num_embeddings": 30,
        "latent_channels": 8,
        "base_channels": 32,
        "channel_multiplier": [1, 2],
        "num_res_blocks": 1,
        "projection_dim": text["hidden_size"],
        "image_token_embed_dim": text["hidden_size"],
        **(vq or {}),
    }
    config = JanusConfig(
        text_config=LlamaConfig(**text),
        vision_config=JanusVisionConfig(**vision),
        vq_config=JanusVQVAEConfig(**vq),
        image_token_id=0,
        tie_word_embeddings=False,
    )
    return randomise(JanusForConditionalGeneration(config), seed)


def make_gpt(seed: int = 9, *, codes: int = 40, length: int = 16, side: int = 5, **overrides):
    """(a transformers LlamaForCausalLM over `codes` picture tokens and the text's, which is which).

    The picture tokens begin in the middle of a panel, and some ids mean nothing.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    text = 3
    picture = text + VOCAB_SIZE
    tokens = {
        "_class_name": "PictureTokens",
        "picture_tokens": codes,
        "first_picture_token": picture,
        "text_tokens": VOCAB_SIZE,
        "first_text_token": text,
        "begin_of_picture": 1,
        "padding": 0,
        "text_length": length,
        "side": side,
    }
    config = {
        "vocab_size": picture + codes + 2,
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": length + 1 + side * side,
        **overrides,
    }
    return randomise(LlamaForCausalLM(LlamaConfig(**config)), seed), tokens
