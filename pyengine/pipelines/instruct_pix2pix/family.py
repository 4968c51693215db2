"""What is known of InstructPix2Pix."""

from ..common_parts import CLIP_PROJECTION, CLIP_TOKENIZER
from ..registry import Family
from ..stable_diffusion.family import PARTS, SD_INDEX

_HERE = "pyengine.pipelines.instruct_pix2pix"
_BASE = "pyengine.pipelines.stable_diffusion"

INSTRUCT_PIX2PIX = Family(
    name="instruct_pix2pix",
    title="latent diffusion: InstructPix2Pix, pictures changed as a text says",
    state="pictures from a picture and a text, guided by both; held to diffusers by tests",
    classes=("StableDiffusionInstructPix2PixPipeline",),
    parts=PARTS,
    index=SD_INDEX,
    pipeline=f"{_HERE}.pipeline:StableDiffusionInstructPix2PixPipeline",
    build=f"{_BASE}.build:build",
    main="unet",
    takes_parts=True,
    tasks={"image": f"{_HERE}.pipeline:StableDiffusionInstructPix2PixPipeline"},
    rehearse=f"{_BASE}.rehearsal:rehearse",
    rank=13,
)

INSTRUCT_PIX2PIX_XL = Family(
    name="instruct_pix2pix_xl",
    title="latent diffusion: InstructPix2Pix with Stable Diffusion XL",
    state="pictures from a picture and a text, guided by both; held to diffusers by tests",
    classes=("StableDiffusionXLInstructPix2PixPipeline",),
    parts={**PARTS, "text_encoder_2": CLIP_PROJECTION, "tokenizer_2": CLIP_TOKENIZER},
    pipeline=f"{_HERE}.xl:StableDiffusionXLInstructPix2PixPipeline",
    build=f"{_BASE}.build:build",
    main="unet",
    takes_parts=True,
    tasks={"image": f"{_HERE}.xl:StableDiffusionXLInstructPix2PixPipeline"},
    rehearse=f"{_BASE}.rehearsal:rehearse",
    rank=13,
)
