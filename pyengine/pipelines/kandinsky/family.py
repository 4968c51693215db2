"""What is known of Kandinsky 2.2: its prior, and its decoder."""

from ..common_parts import CLIP_PROJECTION, CLIP_TOKENIZER, SCHEDULER, UNET, VQ
from ..registry import Family, Part

_HERE = "pyengine.pipelines.kandinsky"

PRIOR = Family(
    name="kandinsky_prior",
    title="prior + decoder (DALL-E 2): Kandinsky 2.2's prior",
    state="texts to embeddings of pictures, mixtures of texts and pictures; held to diffusers by"
    " tests",
    classes=("KandinskyV22PriorPipeline",),
    parts={
        "prior": Part(
            kind="model",
            library="diffusers",
            classes=("PriorTransformer",),
            network="pyengine.models:PriorTransformer",
            summary=(
                "num_layers", "num_attention_heads", "attention_head_dim", "embedding_dim",
                "num_embeddings",
            ),
        ),
        "image_encoder": Part(
            kind="model",
            library="transformers",
            classes=("CLIPVisionModelWithProjection",),
            model_types=("clip_vision_model", "clip"),
            network="pyengine.models:CLIPVisionModelWithProjection",
            summary=("image_size", "patch_size", "hidden_size", "num_hidden_layers"),
        ),
        "text_encoder": CLIP_PROJECTION,
        "tokenizer": CLIP_TOKENIZER,
        "scheduler": Part(
            kind="scheduler",
            library="diffusers",
            classes=("UnCLIPScheduler",),
            config="pyengine.schedules.config:UnCLIPConfig",
        ),
        "image_processor": Part(
            kind="settings",
            library="transformers",
            classes=("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil"),
            config="pyengine.clip_pictures:ClipPictureConfig",
            file="preprocessor_config.json",
        ),
    },
    unused=(),
    pipeline=f"{_HERE}.prior:KandinskyV22PriorPipeline",
    build=f"{_HERE}.build:build_prior",
    main="prior",
    tasks={},
    sampler="unclip",
    rank=18,
)  # fmt: skip

DECODER = Family(
    name="kandinsky",
    title="prior + decoder (DALL-E 2): Kandinsky 2.2's decoder",
    state="embeddings of pictures to pictures, image-to-image, inpainting; held to diffusers by"
    " tests",
    classes=(
        "KandinskyV22Pipeline", "KandinskyV22Img2ImgPipeline", "KandinskyV22InpaintPipeline"
    ),
    parts={"unet": UNET, "scheduler": SCHEDULER, "movq": VQ},
    unused=(),
    pipeline=f"{_HERE}.pipeline:KandinskyV22Pipeline",
    build=f"{_HERE}.build:build",
    main="unet",
    rehearse=f"{_HERE}.rehearsal:rehearse",
    rank=19,
)  # fmt: skip
