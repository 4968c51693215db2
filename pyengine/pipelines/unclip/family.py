"""What is known of unCLIP: pictures from texts, and from pictures."""

from ..common_parts import (
    CLIP_PICTURES,
    CLIP_PROJECTION,
    CLIP_TOKENIZER,
    CLIP_VISION,
    PRIOR_TRANSFORMER,
    UNCLIP_SCHEDULER,
    UNET,
)
from ..registry import Family, Part

_HERE = "pyengine.pipelines.unclip"
_ENLARGER = Part(
    kind="model",
    library="diffusers",
    classes=("UNet2DModel",),
    network="pyengine.models:UNet2DModel",
    summary=("sample_size", "in_channels", "block_out_channels", "layers_per_block"),
)
_PARTS = {
    "decoder": UNET,
    "text_encoder": CLIP_PROJECTION,
    "tokenizer": CLIP_TOKENIZER,
    # Its library is what Karlo's index calls it; diffusers saves its own name.
    "text_proj": Part(
        kind="model",
        library="unclip",
        other_libraries=("diffusers",),
        classes=("UnCLIPTextProjModel",),
        network="pyengine.models:UnCLIPTextProjModel",
        summary=("clip_extra_context_tokens", "clip_embeddings_dim", "cross_attention_dim"),
    ),
    "super_res_first": _ENLARGER,
    "super_res_last": _ENLARGER,
    "decoder_scheduler": UNCLIP_SCHEDULER,
    "super_res_scheduler": UNCLIP_SCHEDULER,
}

UNCLIP = Family(
    name="unclip",
    title="prior + decoder (DALL-E 2): unCLIP (Karlo)",
    state="text-to-image by prior, decoder and super-resolution; held to diffusers by tests",
    classes=("UnCLIPPipeline",),
    parts={"prior": PRIOR_TRANSFORMER, **_PARTS, "prior_scheduler": UNCLIP_SCHEDULER},
    unused=(),
    pipeline=f"{_HERE}.pipeline:UnCLIPPipeline",
    build=f"{_HERE}.build:build",
    main="decoder",
    sampler="unclip",
    rehearse=f"{_HERE}.rehearsal:rehearse",
    rank=19,
)

VARIATION = Family(
    name="unclip_image_variation",
    title="prior + decoder (DALL-E 2): unCLIP's variations of pictures (Karlo)",
    state="pictures like a picture, and between two; held to diffusers by tests",
    classes=("UnCLIPImageVariationPipeline",),
    parts={"image_encoder": CLIP_VISION, "feature_extractor": CLIP_PICTURES, **_PARTS},
    unused=(),
    pipeline=f"{_HERE}.variation:UnCLIPImageVariationPipeline",
    build=f"{_HERE}.build:build_variation",
    main="decoder",
    sampler="unclip",
    rehearse=f"{_HERE}.rehearsal:rehearse",
    rank=19,
)
