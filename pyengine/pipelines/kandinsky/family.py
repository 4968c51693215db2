"""What is known of Kandinsky 2.2: its prior, and its decoder."""

from ..common_parts import (
    CLIP_PICTURES,
    CLIP_PROJECTION,
    CLIP_TOKENIZER,
    CLIP_VISION,
    PRIOR_TRANSFORMER,
    SCHEDULER,
    UNCLIP_SCHEDULER,
    UNET,
    VQ,
)
from ..registry import Family

_HERE = "pyengine.pipelines.kandinsky"

PRIOR = Family(
    name="kandinsky_prior",
    title="prior + decoder (DALL-E 2): Kandinsky 2.2's prior",
    state="texts to embeddings of pictures, mixtures of texts and pictures; held to diffusers by"
    " tests",
    classes=("KandinskyV22PriorPipeline",),
    parts={
        "prior": PRIOR_TRANSFORMER,
        "image_encoder": CLIP_VISION,
        "text_encoder": CLIP_PROJECTION,
        "tokenizer": CLIP_TOKENIZER,
        "scheduler": UNCLIP_SCHEDULER,
        "image_processor": CLIP_PICTURES,
    },
    unused=(),
    pipeline=f"{_HERE}.prior:KandinskyV22PriorPipeline",
    build=f"{_HERE}.build:build_prior",
    main="prior",
    rehearse=f"{_HERE}.rehearsal:rehearse_alone",
    tasks={},
    sampler="unclip",
    rank=18,
)  # fmt: skip

DECODER = Family(
    name="kandinsky",
    title="prior + decoder (DALL-E 2): Kandinsky 2.2's decoder",
    state="embeddings of pictures to pictures, image-to-image, inpainting, its ControlNet; held to"
    " diffusers by tests",
    classes=(
        "KandinskyV22Pipeline",
        "KandinskyV22Img2ImgPipeline",
        "KandinskyV22InpaintPipeline",
        "KandinskyV22ControlnetPipeline",
        "KandinskyV22ControlnetImg2ImgPipeline",
    ),
    parts={"unet": UNET, "scheduler": SCHEDULER, "movq": VQ},
    unused=(),
    pipeline=f"{_HERE}.pipeline:KandinskyV22Pipeline",
    build=f"{_HERE}.build:build",
    main="unet",
    tasks={
        "image": f"{_HERE}.tasks:KandinskyV22Img2ImgPipeline",
        "inpaint": f"{_HERE}.tasks:KandinskyV22InpaintPipeline",
    },
    others=(
        f"{_HERE}.tasks:KandinskyV22ControlnetPipeline",
        f"{_HERE}.tasks:KandinskyV22ControlnetImg2ImgPipeline",
    ),
    rehearse=f"{_HERE}.rehearsal:rehearse",
    joins={"prior": f"{_HERE}.joined:join"},
    rank=19,
)

#: What diffusers calls a decoder's pipeline with a prior before it.
JOINED = {
    "KandinskyV22Pipeline": "KandinskyV22CombinedPipeline",
    "KandinskyV22Img2ImgPipeline": "KandinskyV22Img2ImgCombinedPipeline",
    "KandinskyV22InpaintPipeline": "KandinskyV22InpaintCombinedPipeline",
}
COMBINED = Family(
    name="kandinsky_combined",
    title="prior + decoder (DALL-E 2): Kandinsky 2.2, both",
    state="text-to-image, image-to-image, inpainting by prior and decoder, of one folder or two;"
    " held to diffusers by tests",
    classes=tuple(JOINED.values()),
    parts={**DECODER.parts, **{f"prior_{name}": part for name, part in PRIOR.parts.items()}},
    unused=(),
    pipeline=f"{_HERE}.combined:KandinskyV22CombinedPipeline",
    build=f"{_HERE}.build:build_combined",
    main="unet",
    tasks={
        "text": f"{_HERE}.combined:KandinskyV22CombinedPipeline",
        "image": f"{_HERE}.tasks:KandinskyV22Img2ImgCombinedPipeline",
        "inpaint": f"{_HERE}.tasks:KandinskyV22InpaintCombinedPipeline",
    },
    sampler="unclip",
    rehearse=f"{_HERE}.rehearsal:rehearse",
    rank=19,
)
