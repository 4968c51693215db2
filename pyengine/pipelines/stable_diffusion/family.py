"""What is known of Stable Diffusion 1.x, 2.x and XL and of latent consistency models."""

from ..common_parts import CLIP_PROJECTION, CLIP_TEXT, CLIP_TOKENIZER, SCHEDULER, UNET, VAE
from ..registry import Family

_HERE = "pyengine.pipelines.stable_diffusion"

PARTS = {
    "unet": UNET,
    "vae": VAE,
    "text_encoder": CLIP_TEXT,
    "tokenizer": CLIP_TOKENIZER,
    "scheduler": SCHEDULER,
}
SD_INDEX = {"requires_safety_checker": False}


def _beside(*names: str) -> tuple[str, ...]:
    """Classes for what is loaded beside the model."""
    return tuple(f"{_HERE}.control_tasks:StableDiffusion{name}Pipeline" for name in names)


def _beside_classes(model: str) -> dict[str, str]:
    """diffusers' classes beside ControlNets and adapters: the class of the same parts without."""
    found = {f"{model}AdapterPipeline": f"{model}Pipeline"}
    for kind in ("ControlNet", "ControlNetUnion"):
        for task in ("", "Img2Img", "Inpaint"):
            found[f"{model}{kind}{task}Pipeline"] = f"{model}{task}Pipeline"
    return found


STABLE_DIFFUSION = Family(
    name="stable_diffusion",
    title="latent diffusion: Stable Diffusion 1.x, 2.x (v-prediction)",
    state="text-to-image, image-to-image, inpainting; on the CPU in float32, bfloat16 or float16;"
    " held to diffusers by tests",
    classes=(
        "StableDiffusionPipeline",
        "StableDiffusionImg2ImgPipeline",
        "StableDiffusionInpaintPipeline",
    ),
    parts=PARTS,
    index=SD_INDEX,
    beside=_beside_classes("StableDiffusion"),
    # diffusers' pipelines of the same parts that guide in ways of their own, which pyengine lacks.
    refused={
        "StableDiffusionPipelineSafe": "StableDiffusionPipeline",
        "StableDiffusionPAGPipeline": "StableDiffusionPipeline",
        "StableDiffusionPAGImg2ImgPipeline": "StableDiffusionImg2ImgPipeline",
        "StableDiffusionPAGInpaintPipeline": "StableDiffusionInpaintPipeline",
        "StableDiffusionSAGPipeline": "StableDiffusionPipeline",
        "StableDiffusionPanoramaPipeline": "StableDiffusionPipeline",
        "StableDiffusionAttendAndExcitePipeline": "StableDiffusionPipeline",
        "SemanticStableDiffusionPipeline": "StableDiffusionPipeline",
        "StableDiffusionKDiffusionPipeline": "StableDiffusionPipeline",
    },
    pipeline=f"{_HERE}.pipeline:StableDiffusionPipeline",
    build=f"{_HERE}.build:build",
    main="unet",
    takes_parts=True,
    takes_control=True,
    tasks={
        "text": f"{_HERE}.pipeline:StableDiffusionPipeline",
        "image": f"{_HERE}.tasks:StableDiffusionImg2ImgPipeline",
        "inpaint": f"{_HERE}.tasks:StableDiffusionInpaintPipeline",
    },
    others=_beside("ControlNet", "ControlNetImg2Img", "ControlNetInpaint", "Adapter"),
    rehearse=f"{_HERE}.rehearsal:rehearse",
    rank=10,
)

LATENT_CONSISTENCY = Family(
    name="latent_consistency",
    title="latent consistency models: Stable Diffusion in few steps",
    state="text-to-image, image-to-image; held to diffusers by tests",
    classes=("LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"),
    parts=PARTS,
    index=SD_INDEX,
    pipeline=f"{_HERE}.pipeline:StableDiffusionPipeline",
    build=f"{_HERE}.build:build",
    main="unet",
    defaults=f"{_HERE}.defaults:DistilledDefaults",
    takes_parts=True,
    takes_control=True,
    tasks={
        "text": f"{_HERE}.tasks:LatentConsistencyModelPipeline",
        "image": f"{_HERE}.tasks:LatentConsistencyModelImg2ImgPipeline",
    },
    rehearse=f"{_HERE}.rehearsal:rehearse",
    rank=11,
)

STABLE_DIFFUSION_XL = Family(
    name="stable_diffusion_xl",
    title="latent diffusion: Stable Diffusion XL and its refiner",
    state="text-to-image, image-to-image, inpainting; on the CPU in float32, bfloat16 or float16;"
    " held to diffusers by tests",
    classes=(
        "StableDiffusionXLPipeline",
        "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLInpaintPipeline",
    ),
    parts={**PARTS, "text_encoder_2": CLIP_PROJECTION, "tokenizer_2": CLIP_TOKENIZER},
    # The first text encoder and its tokenizer, which the refiner does without.
    optional=("text_encoder", "tokenizer"),
    beside=_beside_classes("StableDiffusionXL"),
    refused={
        "StableDiffusionXLKDiffusionPipeline": "StableDiffusionXLPipeline",
        "StableDiffusionXLPAGPipeline": "StableDiffusionXLPipeline",
        "StableDiffusionXLPAGImg2ImgPipeline": "StableDiffusionXLImg2ImgPipeline",
        "StableDiffusionXLPAGInpaintPipeline": "StableDiffusionXLInpaintPipeline",
    },
    pipeline=f"{_HERE}.xl:StableDiffusionXLPipeline",
    build=f"{_HERE}.build:build",
    main="unet",
    takes_parts=True,
    takes_control=True,
    tasks={
        "text": f"{_HERE}.xl:StableDiffusionXLPipeline",
        "image": f"{_HERE}.tasks:StableDiffusionXLImg2ImgPipeline",
        "inpaint": f"{_HERE}.tasks:StableDiffusionXLInpaintPipeline",
    },
    others=_beside(
        "XLControlNet",
        "XLControlNetImg2Img",
        "XLControlNetInpaint",
        "XLControlNetUnion",
        "XLControlNetUnionImg2Img",
        "XLControlNetUnionInpaint",
        "XLAdapter",
    ),
    rehearse=f"{_HERE}.rehearsal:rehearse",
    rank=12,
)
