"""What is known of DCGAN."""

from ..registry import Family, Part

_HERE = "pyengine.pipelines.dcgan"

DCGAN = Family(
    name="dcgan",
    title="GAN: DCGAN",
    state="from noise, a folder or a file of PyTorch's example; held to a plain reading of the"
    " layout",
    classes=("DCGANGenerator",),
    signature={"model_type": "dcgan"},
    tensors=("main.0.weight", "main.1.running_mean", "main.3.weight"),
    file=f"{_HERE}.file:DCGANFile",
    parts={
        "model": Part(
            kind="model",
            library="pyengine",
            classes=("DCGANGenerator",),
            network="pyengine.models:DCGANGenerator",
            summary=("latent_channels", "block_out_channels", "out_channels", "sample_size"),
        ),
    },
    pipeline=f"{_HERE}.pipeline:DCGANPipeline",
    build=f"{_HERE}.build:build",
    main="model",
    rehearse=f"{_HERE}.rehearsal:rehearse",
    rank=60,
)
