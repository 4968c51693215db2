"""What is known of ImageGPT."""

from ..registry import Family, Part

_HERE = "pyengine.pipelines.image_gpt"

IMAGE_GPT = Family(
    name="image_gpt",
    title="pixel autoregressive: ImageGPT",
    state="from nothing, or completing a picture's upper rows; the same greedy tokens as"
    " transformers",
    classes=("ImageGPTForCausalImageModeling",),
    signature={"model_type": "imagegpt"},
    parts={
        "model": Part(
            kind="model",
            library="transformers",
            classes=("ImageGPTForCausalImageModeling",),
            network="pyengine.models:ImageGPT",
            summary=(
                "vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "activation_function",
            ),
        ),
        "tokenizer": Part(kind="tokenizer", library="transformers"),
    },
    files={"pictures": "preprocessor_config.json"},
    needed=("preprocessor_config.json",),
    pipeline=f"{_HERE}.pipeline:ImageGPTPipeline",
    build=f"{_HERE}.build:build",
    main="model",
    rank=40,
)  # fmt: skip
