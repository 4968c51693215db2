"""Parts that checkpoints of several families have."""

from .registry import Part

UNET = Part(
    kind="model",
    library="diffusers",
    classes=("UNet2DConditionModel",),
    network="pyengine.models:UNet2DConditionModel",
    summary=(
        "sample_size", "in_channels", "block_out_channels", "layers_per_block",
        "cross_attention_dim", "attention_head_dim", "transformer_layers_per_block",
        "addition_embed_type", "time_cond_proj_dim",
    ),
)  # fmt: skip
VAE = Part(
    kind="model",
    library="diffusers",
    classes=("AutoencoderKL", "AutoencoderTiny", "AsymmetricAutoencoderKL"),
    network="pyengine.models:AutoencoderKL",
    others=("pyengine.models:AutoencoderTiny", "pyengine.models:AsymmetricAutoencoderKL"),
    summary=(
        "latent_channels",
        "block_out_channels",
        "layers_per_block",
        "scaling_factor",
        "force_upcast",
    ),
)
_CLIP_TYPES = ("clip_text_model", "clip")
_CLIP_SUMMARY = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
    "max_position_embeddings",
)  # fmt: skip
CLIP_TEXT = Part(
    kind="model",
    library="transformers",
    classes=("CLIPTextModel",),
    model_types=_CLIP_TYPES,
    network="pyengine.models:CLIPTextModel",
    summary=_CLIP_SUMMARY,
)
CLIP_PROJECTION = Part(
    kind="model",
    library="transformers",
    classes=("CLIPTextModelWithProjection",),
    model_types=_CLIP_TYPES,
    network="pyengine.models:CLIPTextModelWithProjection",
    summary=_CLIP_SUMMARY,
)
CLIP_TOKENIZER = Part(
    kind="tokenizer",
    library="transformers",
    classes=("CLIPTokenizer", "CLIPTokenizerFast"),
    network="pyengine.tokenizer:ClipTokenizer",
)
VQ = Part(
    kind="model",
    library="diffusers",
    classes=("VQModel",),
    network="pyengine.models:VQModel",
    summary=(
        "num_vq_embeddings", "embed_dim", "latent_channels", "block_out_channels",
        "layers_per_block", "force_upcast",
    ),
)  # fmt: skip
SCHEDULER = Part(kind="scheduler", library="diffusers")
PRIOR_TRANSFORMER = Part(
    kind="model",
    library="diffusers",
    classes=("PriorTransformer",),
    network="pyengine.models:PriorTransformer",
    summary=(
        "num_layers",
        "num_attention_heads",
        "attention_head_dim",
        "embedding_dim",
        "num_embeddings",
    ),
)
CLIP_VISION = Part(
    kind="model",
    library="transformers",
    classes=("CLIPVisionModelWithProjection",),
    model_types=("clip_vision_model", "clip"),
    network="pyengine.models:CLIPVisionModelWithProjection",
    summary=("image_size", "patch_size", "hidden_size", "num_hidden_layers"),
)
CLIP_PICTURES = Part(
    kind="settings",
    library="transformers",
    classes=(
        *("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil"),
        "CLIPFeatureExtractor",  # its name until transformers 4.26
    ),
    config="pyengine.clip_pictures:ClipPictureConfig",
    file="preprocessor_config.json",
)
UNCLIP_SCHEDULER = Part(
    kind="scheduler",
    library="diffusers",
    classes=("UnCLIPScheduler",),
    config="pyengine.schedules.config:UnCLIPConfig",
)
