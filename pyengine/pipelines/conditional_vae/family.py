"""What is known of the small conditional variational autoencoder."""

from ..registry import Family, Part

_HERE = "pyengine.pipelines.conditional_vae"

CONDITIONAL_VAE = Family(
    name="conditional_vae",
    title="VAE: of texts",
    state="emoji-vae, and what `pyengine train vae` makes: from its prior, reconstruction,"
    " interpolation",
    classes=("ConditionalVAEPipeline",),
    parts={
        "vae": Part(
            kind="model",
            library="pyengine",
            classes=("ConditionalVAE",),
            network="pyengine.models:ConditionalVAE",
            summary=("text_encoder", "latent_channels", "block_out_channels", "encoder_channels"),
        ),
    },
    pipeline=f"{_HERE}.pipeline:ConditionalVAEPipeline",
    build="pyengine.pipelines.text_generators:build",
    main="vae",
    tasks={"text": f"{_HERE}.pipeline:ConditionalVAEPipeline"},
    rank=63,
)
