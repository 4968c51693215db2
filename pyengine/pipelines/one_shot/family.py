"""What is known of the small model that was trained by regression."""

from ..registry import Family, Part

_HERE = "pyengine.pipelines.one_shot"

ONE_SHOT = Family(
    name="one_shot",
    title="regression: text to all pixels at once",
    state="emoji-one-shot, and what `pyengine train one-shot` makes: the mean of what a prompt may"
    " mean, a blur",
    classes=("OneShotPipeline",),
    parts={
        "generator": Part(
            kind="model",
            library="pyengine",
            classes=("TextGenerator",),
            network="pyengine.models:TextGenerator",
            summary=("text_encoder", "latent_channels", "block_out_channels"),
        ),
    },
    pipeline=f"{_HERE}.pipeline:OneShotPipeline",
    build="pyengine.pipelines.text_generators:build",
    main="generator",
    tasks={"text": f"{_HERE}.pipeline:OneShotPipeline"},
    rank=65,
)
