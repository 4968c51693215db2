"""What is known of the small conditional GAN."""

from ..registry import Family, Part

_HERE = "pyengine.pipelines.conditional_gan"

CONDITIONAL_GAN = Family(
    name="conditional_gan",
    title="GAN: of texts",
    state="emoji-gan, and what `pyengine train gan` makes",
    classes=("ConditionalGANPipeline",),
    parts={
        "generator": Part(
            kind="model",
            library="pyengine",
            classes=("TextGenerator",),
            network="pyengine.models:TextGenerator",
            summary=("text_encoder", "latent_channels", "block_out_channels"),
        ),
    },
    pipeline=f"{_HERE}.pipeline:ConditionalGANPipeline",
    build="pyengine.pipelines.text_generators:build",
    main="generator",
    tasks={"text": f"{_HERE}.pipeline:ConditionalGANPipeline"},
    rank=62,
)
