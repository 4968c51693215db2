"""Tiny random Stable Diffusion checkpoints in the diffusers layout, for every test that needs one.

diffusers and transformers write the folders themselves (save_pretrained), so that what the engine
reads is what their users have. Same arguments, same bytes: seeds are fixed. Norm weights and
biases are drawn too, so that no parameter is 0 or 1 and each of them shows in the output.

    folder = tiny.write_sd1(tmp_path / "sd1")         # 4-channel latents, factor 8, 64x64 pictures
    folder = tiny.write_sdxl(tmp_path / "xl", unet={"layers_per_block": 1}, variant="fp16")
"""

from .folders import (
    DDPM_SCHEDULER,
    SD1_SCHEDULER,
    SD2_UNET,
    SDXL_SCHEDULER,
    SDXL_UNET,
    store_as,
    write_amused,
    write_ddpm,
    write_dit,
    write_image_gpt,
    write_janus,
    write_picture_gpt,
    write_refiner,
    write_sd1,
    write_sd2,
    write_sdxl,
)
from .models import (
    make_dit,
    make_gpt,
    make_image_encoder,
    make_image_gpt,
    make_janus,
    make_text_encoder,
    make_unet,
    make_unet2d,
    make_uvit,
    make_vae,
    make_vq,
    randomise,
)
from .words import (
    END,
    START,
    VOCAB_SIZE,
    write_tokenizer,
)

__all__ = [
    "DDPM_SCHEDULER",
    "END",
    "SD1_SCHEDULER",
    "SD2_UNET",
    "SDXL_SCHEDULER",
    "SDXL_UNET",
    "START",
    "VOCAB_SIZE",
    "make_dit",
    "make_gpt",
    "make_image_encoder",
    "make_image_gpt",
    "make_janus",
    "make_text_encoder",
    "make_unet",
    "make_unet2d",
    "make_uvit",
    "make_vae",
    "make_vq",
    "randomise",
    "store_as",
    "write_amused",
    "write_ddpm",
    "write_dit",
    "write_image_gpt",
    "write_janus",
    "write_picture_gpt",
    "write_refiner",
    "write_sd1",
    "write_sd2",
    "write_sdxl",
    "write_tokenizer",
]
