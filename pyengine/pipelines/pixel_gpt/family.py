"""What is known of the project's own models that draw pixel by pixel."""

from ..registry import Family, Part

_HERE = "pyengine.pipelines.pixel_gpt"

PIXEL_GPT = Family(
    name="pixel_gpt",
    title="pixel autoregressive, from text: colours of a palette one after another",
    state="from text, continuing a prefix; emoji-pixels, which ships and is weak, and what"
    " `pyengine train pixels` makes",
    classes=("PixelGPTPipeline",),
    parts={
        "transformer": Part(
            kind="model",
            library="pyengine",
            classes=("PixelGPT",),
            network="pyengine.models:PixelGPT",
            summary=(
                "sample_size", "vocab_size", "hidden_size", "intermediate_size",
                "num_hidden_layers", "num_attention_heads", "text_encoder",
            ),
        ),
    },
    pipeline=f"{_HERE}.pipeline:PixelGPTPipeline",
    build=f"{_HERE}.build:build",
    main="transformer",
    rank=53,
)  # fmt: skip
