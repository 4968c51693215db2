"""What is known of the small conditional normalising flow."""

from ..registry import Family, Part

_HERE = "pyengine.pipelines.glow"

GLOW = Family(
    name="glow",
    title="normalising flow: Glow, of texts",
    state="emoji-flow, which is weak, and what `pyengine train flow` makes: with temperature, exact"
    " latents of pictures, bits per dimension",
    classes=("GlowPipeline",),
    parts={
        "flow": Part(
            kind="model",
            library="pyengine",
            classes=("Glow",),
            network="pyengine.models:Glow",
            summary=("text_encoder", "sample_size", "patch_size", "flow_steps", "hidden_channels"),
        ),
    },
    pipeline=f"{_HERE}.pipeline:GlowPipeline",
    build="pyengine.pipelines.text_generators:build",
    main="flow",
    tasks={"text": f"{_HERE}.pipeline:GlowPipeline"},
    rank=64,
)
