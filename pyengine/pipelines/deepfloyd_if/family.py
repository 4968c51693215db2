"""What is known of DeepFloyd IF: its first stage, from texts to small pictures."""

from ..common_parts import SCHEDULER, UNET
from ..registry import Family, Part

_HERE = "pyengine.pipelines.deepfloyd_if"

DEEPFLOYD_IF = Family(
    name="deepfloyd_if",
    title="pixel cascade (Imagen): DeepFloyd IF",
    state="text-to-image by its first stage, with a learned variance and dynamic thresholding;"
    " held to diffusers by tests; super-resolution: not yet",
    classes=("IFPipeline",),
    parts={
        "unet": UNET,
        "text_encoder": Part(
            kind="model",
            library="transformers",
            classes=("T5EncoderModel",),
            model_types=("t5",),
            network="pyengine.models:T5EncoderModel",
            summary=("vocab_size", "d_model", "num_layers", "num_heads", "feed_forward_proj"),
        ),
        "tokenizer": Part(
            kind="tokenizer", library="transformers", classes=("T5Tokenizer", "T5TokenizerFast")
        ),
        "scheduler": SCHEDULER,
    },
    unused=("safety_checker", "feature_extractor", "watermarker"),
    index={"requires_safety_checker": False},
    pipeline=f"{_HERE}.pipeline:IFPipeline",
    build=f"{_HERE}.build:build",
    main="unet",
    tasks={"text": f"{_HERE}.pipeline:IFPipeline"},
    rehearse=f"{_HERE}.rehearsal:rehearse",
    rank=16,
)
