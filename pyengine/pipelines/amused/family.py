"""What is known of aMUSEd."""

from ..common_parts import CLIP_PROJECTION, CLIP_TOKENIZER, VQ
from ..registry import Family, Part

_HERE = "pyengine.pipelines.amused"

AMUSED = Family(
    name="amused",
    title="masked tokens: aMUSEd",
    state="text-to-image, image-to-image, inpainting, continuing a prefix; the same tokens as"
    " diffusers from the same generator",
    classes=("AmusedPipeline", "AmusedImg2ImgPipeline", "AmusedInpaintPipeline"),
    parts={
        "text_encoder": CLIP_PROJECTION,
        "transformer": Part(
            kind="model",
            library="diffusers",
            classes=("UVit2DModel",),
            network="pyengine.models:UVit2DModel",
            summary=(
                "sample_size", "codebook_size", "vocab_size", "hidden_size", "num_hidden_layers",
                "num_attention_heads", "block_out_channels",
            ),
        ),
        "vqvae": VQ,
        "tokenizer": CLIP_TOKENIZER,
        "scheduler": Part(
            kind="scheduler",
            library="diffusers",
            classes=("AmusedScheduler",),
            config="pyengine.schedules.masked:MaskedConfig",
        ),
    },
    pipeline=f"{_HERE}.pipeline:AmusedPipeline",
    build=f"{_HERE}.build:build",
    main="transformer",
    tasks={
        "text": f"{_HERE}.pipeline:AmusedPipeline",
        "image": f"{_HERE}.tasks:AmusedImg2ImgPipeline",
        "inpaint": f"{_HERE}.tasks:AmusedInpaintPipeline",
    },
    sampler="masked",
    rank=20,
)  # fmt: skip
