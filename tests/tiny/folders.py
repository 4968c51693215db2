"""Folders of tiny checkpoints, as diffusers and transformers write them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from .models import (
    make_dit,
    make_gpt,
    make_image_gpt,
    make_janus,
    make_text_encoder,
    make_unet,
    make_unet2d,
    make_uvit,
    make_vae,
    make_vq,
)
from .words import END, JANUS_SPECIALS, make_janus_tokenizer, write_tokenizer

SD1_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
SDXL_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
DDPM_SCHEDULER = {"variance_type": "fixed_large", "clip_sample": True}
SD2_UNET = {
    "use_linear_projection": True,
    "attention_head_dim": (2, 4),
    "block_out_channels": (16, 32),
}
SDXL_UNET = {
    "use_linear_projection": True,
    "block_out_channels": (16, 32, 48),
    "attention_head_dim": (1, 2, 4),
    "transformer_layers_per_block": (1, 2, 3),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": 32 + 40,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 40 + 6 * 8,
}


def _save(pipe, folder: Path, pads: dict[str, str], dtype, **save) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    if dtype is not None:
        pipe.to(dtype)
    pipe.save_pretrained(folder, safe_serialization=True, **save)
    for name, pad_token in pads.items():
        shutil.rmtree(folder / name)
        write_tokenizer(folder / name, pad_token=pad_token)
    return folder


def _tokenizer(folder: Path, pad_token: str = END):
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(write_tokenizer(folder, pad_token=pad_token))


def _write_sd(folder, parts: dict, scheduler, pad_token: str, dtype, save: dict) -> Path:
    from diffusers import StableDiffusionPipeline

    folder = Path(folder)
    pipe = StableDiffusionPipeline(
        **parts,
        tokenizer=_tokenizer(folder / "tokenizer", pad_token),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return _save(pipe, folder, {"tokenizer": pad_token}, dtype, **save)


def write_sd1(
    folder, *, seed=0, unet=None, vae=None, text=None, scheduler=None, dtype=None, **save
):
    """An SD 1.x folder. unet, vae, text: config overrides; scheduler: a diffusers scheduler or None
    (DDIM, epsilon); dtype: torch dtype of the saved weights; save: for save_pretrained (variant,
    max_shard_size). Returns the folder's Path.
    """
    from diffusers import DDIMScheduler

    parts = {
        "text_encoder": make_text_encoder(10 * seed + 1, **(text or {})),
        "unet": make_unet(10 * seed + 2, **(unet or {})),
        "vae": make_vae(10 * seed + 3, **(vae or {})),
    }
    scheduler = scheduler or DDIMScheduler(**SD1_SCHEDULER)
    return _write_sd(folder, parts, scheduler, END, dtype, save)


def write_sd2(
    folder, *, seed=0, unet=None, vae=None, text=None, scheduler=None, dtype=None, **save
):
    """An SD 2.x folder: linear projections, heads per level, v prediction, gelu, pad token "!"."""
    from diffusers import DDIMScheduler

    parts = {
        "text_encoder": make_text_encoder(10 * seed + 4, **{"hidden_act": "gelu", **(text or {})}),
        "unet": make_unet(10 * seed + 5, **{**SD2_UNET, **(unet or {})}),
        "vae": make_vae(10 * seed + 6, **(vae or {})),
    }
    scheduler = scheduler or DDIMScheduler(**SD1_SCHEDULER, prediction_type="v_prediction")
    return _write_sd(folder, parts, scheduler, "!", dtype, save)


def write_sdxl(
    folder,
    *,
    seed=0,
    unet=None,
    vae=None,
    text=None,
    text_2=None,
    scheduler=None,
    dtype=None,
    **save,
):
    """An SDXL folder: two text encoders (32, 40 wide), text_time conditioning, depth per level."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    folder = Path(folder)
    wide = {"hidden_size": 40, "projection_dim": 40, "hidden_act": "gelu"}
    pipe = StableDiffusionXLPipeline(
        text_encoder=make_text_encoder(10 * seed + 7, **(text or {})),
        text_encoder_2=make_text_encoder(
            10 * seed + 8, projection=True, **{**wide, **(text_2 or {})}
        ),
        tokenizer=_tokenizer(folder / "tokenizer"),
        tokenizer_2=_tokenizer(folder / "tokenizer_2", "!"),
        unet=make_unet(10 * seed + 9, **{**SDXL_UNET, **(unet or {})}),
        vae=make_vae(10 * seed + 10, **{"scaling_factor": 0.13025, **(vae or {})}),
        scheduler=scheduler or EulerDiscreteScheduler(**SDXL_SCHEDULER),
        add_watermarker=False,
    )
    return _save(pipe, folder, {"tokenizer": END, "tokenizer_2": "!"}, dtype, **save)


def write_ddpm(
    folder, *, seed=0, unet=None, scheduler=None, kind="DDPMPipeline", flat=False, gain=0.1, **save
):
    """A folder of pixel diffusion, 16x16. scheduler: None: google/ddpm-*'s; kind: DDPMPipeline or
    DDIMPipeline; flat: all files in one folder, as these have them; gain: of the last layer.
    """
    import diffusers

    folder = Path(folder)
    scheduler = scheduler or diffusers.DDPMScheduler(**DDPM_SCHEDULER)
    parts = {"unet": make_unet2d(seed + 12, **(unet or {})), "scheduler": scheduler}
    # At their full size a random network's outputs, clipped step by step, are chaotic: diffusers
    # itself, begun with noise that differs by 1e-7, then draws another picture.
    for p in parts["unet"].conv_out.parameters():
        p.data.mul_(gain)
    _save(getattr(diffusers, kind)(**parts), folder, {}, None, **save)
    for name in parts if flat else ():
        for file in (folder / name).iterdir():
            file.rename(folder / file.name)
        (folder / name).rmdir()
    return folder


def write_dit(folder, *, seed=0, transformer=None, vae=None, scheduler=None, names=None, **save):
    """A DiT folder, 64x64. names: model_index.json's id2label."""
    import diffusers

    folder = Path(folder)
    pipe = diffusers.DiTPipeline(
        transformer=make_dit(seed + 13, **(transformer or {})),
        vae=make_vae(seed + 14, **(vae or {})),
        scheduler=scheduler or diffusers.DDIMScheduler(clip_sample=False),
    )
    _save(pipe, folder, {}, None, **save)
    if names is not None:
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, "id2label": names}))
    return folder


def write_refiner(folder, *, seed=0, unet=None, vae=None, text_2=None, scheduler=None, **save):
    """SDXL's refiner: the second text encoder alone, an aesthetic score in place of a size."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLImg2ImgPipeline

    folder = Path(folder)
    wide = {"hidden_size": 40, "projection_dim": 40, "hidden_act": "gelu"}
    conditioned = {
        "cross_attention_dim": 40,
        "projection_class_embeddings_input_dim": 40 + 5 * 8,
    }
    pipe = StableDiffusionXLImg2ImgPipeline(
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=make_text_encoder(
            10 * seed + 12, projection=True, **{**wide, **(text_2 or {})}
        ),
        tokenizer_2=_tokenizer(folder / "tokenizer_2", "!"),
        unet=make_unet(10 * seed + 13, **{**SDXL_UNET, **conditioned, **(unet or {})}),
        vae=make_vae(10 * seed + 14, **{"scaling_factor": 0.13025, **(vae or {})}),
        scheduler=scheduler or EulerDiscreteScheduler(**SDXL_SCHEDULER),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    return _save(pipe, folder, {"tokenizer_2": "!"}, None, **save)


def write_amused(folder, *, transformer=None, vqvae=None, text=None, scheduler=None, **save):
    """An aMUSEd folder: 40 tokens and the mask, factor 2, 12x12 pictures; keys as `write_sd1`'s."""
    from diffusers import AmusedPipeline, AmusedScheduler

    folder = Path(folder)
    pipe = AmusedPipeline(
        vqvae=make_vq(lookup_from_codebook=True, **(vqvae or {})),
        tokenizer=_tokenizer(folder / "tokenizer"),
        text_encoder=make_text_encoder(11, projection=True, **(text or {})),
        transformer=make_uvit(**(transformer or {})),
        scheduler=AmusedScheduler(mask_token_id=40, **(scheduler or {})),
    )
    return _save(pipe, folder, {"tokenizer": END}, None, **save)


def write_image_gpt(folder, *, height=4, width=6, processor=None, **overrides):
    """An ImageGPT folder: 6x4 pictures of 16 colours. processor: keys of its preprocessor."""
    from transformers.models.imagegpt.image_processing_pil_imagegpt import ImageGPTImageProcessorPil

    folder = Path(folder)
    model = make_image_gpt(**overrides)
    model.save_pretrained(folder)
    generator = torch.Generator().manual_seed(3)
    clusters = 2 * torch.rand(model.config.vocab_size - 1, 3, generator=generator) - 1
    look = {"clusters": clusters.tolist(), "size": {"height": height, "width": width}}
    ImageGPTImageProcessorPil(**{**look, **(processor or {})}).save_pretrained(folder)
    return folder


def write_janus(folder, **overrides):
    """A Janus folder; its picture tokens and sizes as of `make_janus`."""
    folder = Path(folder)
    tokenizer = make_janus_tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in JANUS_SPECIALS}
    model = make_janus(vocab_size=len(tokenizer), **overrides)
    model.generation_config.update(
        bos_token_id=ids["<bos>"],
        pad_token_id=ids["<pad>"],
        eos_token_id=ids["<eos>"],
    )
    model.generation_config.generation_kwargs = {"boi_token_id": ids["<begin_of_image>"]}
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_picture_gpt(folder, *, gpt=None, vqvae=None):
    """A PictureGPT folder: 40 tokens, factor 2, 10x10 pictures."""
    folder = Path(folder)
    model, tokens = make_gpt(**(gpt or {}))
    model.save_pretrained(folder / "transformer")
    make_vq(**(vqvae or {})).save_pretrained(folder / "vqvae")
    write_tokenizer(folder / "tokenizer")
    (folder / "tokens").mkdir()
    (folder / "tokens" / "config.json").write_text(json.dumps(tokens), encoding="utf-8")
    index = {
        "_class_name": "PictureGPTPipeline",
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokens": ["pyengine", "PictureTokens"],
        "transformer": ["transformers", "LlamaForCausalLM"],
        "vqvae": ["diffusers", "VQModel"],
    }
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder


def store_as(folder, dtype):
    """Rewrites the tensors of all models in a folder as `dtype`; returns the folder."""
    from safetensors.torch import load_file, save_file

    for file in Path(folder).rglob("*.safetensors"):
        tensors = {name: t.to(dtype) for name, t in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
    return folder
