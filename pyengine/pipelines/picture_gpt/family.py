"""What is known of PictureGPT, the project's own DALL-E."""

from ..common_parts import CLIP_TOKENIZER, VQ
from ..registry import Family, Part

_HERE = "pyengine.pipelines.picture_gpt"

PICTURE_GPT = Family(
    name="picture_gpt",
    title="DALL-E: text and picture tokens in one transformer",
    state="from text, continuing a prefix; the same greedy tokens as transformers; emoji-ar, which"
    " ships, and what `pyengine train emoji-ar` makes",
    classes=("PictureGPTPipeline",),
    parts={
        "transformer": Part(
            kind="model",
            library="transformers",
            classes=("LlamaForCausalLM",),
            network="pyengine.models:PictureGPT",
            summary=(
                "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                "num_attention_heads", "kv_heads", "max_position_embeddings",
            ),
        ),
        "vqvae": VQ,
        "tokenizer": CLIP_TOKENIZER,
        "tokens": Part(
            kind="settings",
            library="pyengine",
            classes=("PictureTokens",),
            config="pyengine.models:PictureTokens",
        ),
    },
    pipeline=f"{_HERE}.pipeline:PictureGPTPipeline",
    build=f"{_HERE}.build:build",
    main="transformer",
    tasks={"text": f"{_HERE}.pipeline:PictureGPTPipeline"},
    rank=50,
)  # fmt: skip
