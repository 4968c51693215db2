"""Tiny random Stable Diffusion checkpoints in the diffusers layout, for every test that needs one.

diffusers and transformers write the folders themselves (save_pretrained), so that what the engine
reads is what their users have. Same arguments, same bytes: seeds are fixed. Norm weights and
biases are drawn too, so that no parameter is 0 or 1 and each of them shows in the output.

    folder = tiny.write_sd1(tmp_path / "sd1")         # 4-channel latents, factor 8, 64x64 pictures
    folder = tiny.write_sdxl(tmp_path / "xl", unet={"layers_per_block": 1}, variant="fp16")
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

#: Words that are one token; every other text falls back to letters and bytes.
TEXT = """
a an the of in on and with red blue green yellow black white small big two three style smiling
heart cat dog house tree sun moon star apple car bird fish flower face photo painting picture
"""
WORDS = TEXT.split()
START, END = "<|startoftext|>", "<|endoftext|>"


# --- tokenizer ------------------------------------------------------------------------------------


def byte_letters() -> list[str]:
    """The 256 letters of byte-level BPE in the order of CLIP's vocabulary."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(token -> id, merges): letters, letters ending a word, WORDS, start, end (the last id)."""
    letters = byte_letters()
    tokens = letters + [c + "</w>" for c in letters]
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:
            merges.setdefault((parts[0], parts[1]))
            parts[:2] = [parts[0] + parts[1]]
    tokens += [left + right for left, right in merges]
    tokens += [START, END]
    return {token: i for i, token in enumerate(tokens)}, list(merges)


VOCAB_SIZE = len(vocabulary()[0])


def write_tokenizer(folder: Path, *, pad_token: str = END, model_max_length: int = 77) -> Path:
    """vocab.json, merges.txt and their two config files, as transformers 4 writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    ids, merges = vocabulary()
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    special = {
        "bos_token": {"content": START, "lstrip": False, "normalized": True},
        "eos_token": {"content": END, "lstrip": False, "normalized": True},
        "unk_token": {"content": END, "lstrip": False, "normalized": True},
    }
    for token in special.values():
        token.update(rstrip=False, single_word=False)
    config = {
        "add_prefix_space": False,
        "bos_token": START,
        "do_lower_case": True,
        "eos_token": END,
        "errors": "replace",
        "model_max_length": model_max_length,
        "pad_token": pad_token,
        "tokenizer_class": "CLIPTokenizer",
        "unk_token": END,
    }
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(
        json.dumps({**special, "pad_token": pad_token}, indent=2)
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))
    return folder


# --- weights --------------------------------------------------------------------------------------


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


JANUS_SPECIALS = ("<bos>", "<eos>", "<pad>", "<begin_of_image>", "<|User|>", "<|Assistant|>")


def make_janus_tokenizer():
    """A byte-level BPE of WORDS as transformers wraps it; JANUS_SPECIALS have the last ids."""
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    ids = {letter: i for i, letter in enumerate(byte_letters())}
    merges: dict[tuple[str, str], None] = {}
    for word in WORDS:
        parts = list(word)
        while len(parts) > 1:
            merges.setdefault((parts[0], parts[1]))
            parts[:2] = [parts[0] + parts[1]]
    for left, right in merges:
        ids.setdefault(left + right, len(ids))
    tokenizer = Tokenizer(BPE(vocab=ids, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in JANUS_SPECIALS])
    bos = tokenizer.token_to_id("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bos)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
        padding_side="left",
    )  # fmt: skip


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


# --- whole folders --------------------------------------------------------------------------------

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
