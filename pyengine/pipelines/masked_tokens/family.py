"""What is known of the project's own masked-token models."""

from ..registry import Family, Part

_HERE = "pyengine.pipelines.masked_tokens"

MASKED_TOKENS = Family(
    name="masked_tokens",
    title="masked tokens, small: MaskGIT",
    state="from text, image-to-image, inpainting, continuing a prefix; emoji-masked, which ships,"
    " and what `pyengine train masked` makes",
    classes=("MaskedTokensPipeline",),
    parts={
        "transformer": Part(
            kind="model",
            library="pyengine",
            classes=("MaskedTransformer",),
            network="pyengine.models:MaskedTransformer",
            summary=(
                "sample_size", "codebook_size", "hidden_size", "intermediate_size",
                "num_hidden_layers", "num_attention_heads", "embedding_size", "text_encoder",
                "vqvae",
            ),
        ),
    },
    pipeline=f"{_HERE}.pipeline:MaskedTokensPipeline",
    build=f"{_HERE}.build:build",
    main="transformer",
    sampler="masked",
    rank=52,
)  # fmt: skip
