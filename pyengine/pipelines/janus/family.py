"""What is known of Janus and Janus-Pro."""

from ..registry import Family, Part

_HERE = "pyengine.pipelines.janus"

JANUS = Family(
    name="janus",
    title="autoregressive tokens: Janus, Janus-Pro",
    state="text-to-image, continuing a prefix; the same greedy tokens as transformers",
    classes=("JanusForConditionalGeneration",),
    signature={"model_type": "janus"},
    parts={
        "model": Part(
            kind="model",
            library="transformers",
            classes=("JanusForConditionalGeneration",),
            network="pyengine.models:Janus",
            summary=(
                "text_config.vocab_size", "text_config.hidden_size",
                "text_config.num_hidden_layers", "text_config.num_attention_heads",
                "text_config.kv_heads", "text_config.max_position_embeddings",
                "vq_config.num_embeddings", "vq_config.embed_dim",
                "vision_config.num_image_tokens",
            ),
        ),
        "tokenizer": Part(kind="tokenizer", library="transformers"),
    },
    files={"generation": "generation_config.json"},
    needed=("generation_config.json", "tokenizer.json"),
    pipeline=f"{_HERE}.pipeline:JanusPipeline",
    build=f"{_HERE}.build:build",
    main="model",
    tasks={"text": f"{_HERE}.pipeline:JanusPipeline"},
    rank=30,
)  # fmt: skip
