"""What is known of DeepFloyd IF: from texts to small pictures, and from these to larger ones."""

from ..common_parts import SCHEDULER, UNET
from ..registry import Family, Part

_HERE = "pyengine.pipelines.deepfloyd_if"

PARTS = {
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
}
UNUSED = ("safety_checker", "feature_extractor", "watermarker")
INDEX = {"requires_safety_checker": False}

DEEPFLOYD_IF = Family(
    name="deepfloyd_if",
    title="pixel cascade (Imagen): DeepFloyd IF",
    state="text-to-image, image-to-image, inpainting by its first stage, with a learned variance"
    " and dynamic thresholding; held to diffusers by tests",
    classes=("IFPipeline", "IFImg2ImgPipeline", "IFInpaintingPipeline"),
    parts=PARTS,
    unused=UNUSED,
    index=INDEX,
    pipeline=f"{_HERE}.pipeline:IFPipeline",
    build=f"{_HERE}.build:build",
    main="unet",
    tasks={
        "text": f"{_HERE}.pipeline:IFPipeline",
        "image": f"{_HERE}.tasks:IFImg2ImgPipeline",
        "inpaint": f"{_HERE}.tasks:IFInpaintingPipeline",
    },
    rehearse=f"{_HERE}.rehearsal:rehearse",
    rank=16,
)

SUPER_RESOLUTION = Family(
    name="deepfloyd_if_super_resolution",
    title="pixel cascade (Imagen): DeepFloyd IF's super-resolution",
    state="a small picture and a text to a larger picture, from an original and within a mask, too;"
    " held to diffusers by tests",
    classes=(
        "IFSuperResolutionPipeline",
        "IFImg2ImgSuperResolutionPipeline",
        "IFInpaintingSuperResolutionPipeline",
    ),
    parts={**PARTS, "image_noising_scheduler": SCHEDULER},
    unused=UNUSED,
    index=INDEX,
    pipeline=f"{_HERE}.super_resolution:IFSuperResolutionPipeline",
    build=f"{_HERE}.build:build",
    main="unet",
    tasks={
        "image": f"{_HERE}.super_resolution:IFSuperResolutionPipeline",
        "inpaint": f"{_HERE}.tasks:IFInpaintingSuperResolutionPipeline",
    },
    others=(f"{_HERE}.tasks:IFImg2ImgSuperResolutionPipeline",),
    rehearse=f"{_HERE}.rehearsal:rehearse",
    rank=17,
)
