"""What is known of BigGAN."""

from ..registry import Family, Part

_HERE = "pyengine.pipelines.biggan"

BIGGAN = Family(
    name="biggan",
    title="GAN: BigGAN-deep",
    state="of classes, with truncation; held to pytorch-pretrained-biggan",
    classes=("BigGAN",),
    signature={"z_dim": None, "channel_width": None, "attention_layer_position": None},
    parts={
        "model": Part(
            kind="model",
            library="pytorch_pretrained_biggan",
            classes=("BigGAN",),
            network="pyengine.models:BigGAN",
            summary=(
                "output_dim", "z_dim", "channel_width", "num_classes", "attention_layer_position",
                "n_stats",
            ),
        ),
    },
    pipeline=f"{_HERE}.pipeline:BigGANPipeline",
    build=f"{_HERE}.build:build",
    main="model",
    rehearse=f"{_HERE}.rehearsal:rehearse",
    rank=61,
)  # fmt: skip
