"""How a pipeline of each family is called by `pyengine bench pipeline`, and by which peer."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import RequestError
from ..pipelines.registry import Family, family_of
from ..weights import Checkpoint
from .pictures import PROMPT, SEED

#: Denoising steps where none are told, and of a --quick run.
STEPS, QUICK_STEPS = 4, 2
#: A class in the middle of ImageNet's; of fewer, the remainder.
CLASS_LABEL = 207
#: Of pictures that a call begins from, where the model tells no size.
SIDE = 64
#: How much of such a picture is made anew, where the pipeline's own is little.
STRENGTH = 0.8


@dataclass(frozen=True)
class Call:
    """One call of a pipeline, the same for every contestant.

    family: its name. keywords: of the call, besides generators. seeds: a generator's, of each
    picture. result: the field of the output that is compared: "images" (0..1), or "image_embeds".
    phases: whether loading and steps can be told apart in all contestants. no_peer: why diffusers
    has no pipeline for it; "" where it has.
    """

    family: str
    keywords: dict[str, Any]
    seeds: tuple[int, ...]
    result: str = "images"
    phases: bool = False
    no_peer: str = ""

    def generator(self) -> Any:
        """As pipelines take it: one, or a list of one for each picture."""
        made = [torch.Generator().manual_seed(seed) for seed in self.seeds]
        return made if len(made) > 1 else made[0]

    def __call__(self, pipe: Any, **others: Any) -> np.ndarray:
        """Calls a pipeline, ours or diffusers'. Returns the compared field as an array."""
        kind = {"output_type": "np" if self.result == "images" else "pt"}
        output = pipe(generator=self.generator(), **kind, **self.keywords, **others)
        found = getattr(output, self.result)
        return found.numpy() if isinstance(found, torch.Tensor) else np.asarray(found)


@dataclass(frozen=True)
class Asked:
    """What the command line asks of a checkpoint. size and steps: None for the pipeline's own."""

    checkpoint: Checkpoint
    size: int | None = None
    steps: int | None = None
    pictures: int = 1

    def config(self, part: str) -> Mapping[str, Any]:
        return self.checkpoint.config(part)

    def photo(self, side: int = 0) -> Image.Image:
        """A smooth picture with edges, square."""
        side = side or self.size or SIDE
        y, x = np.mgrid[0:side, 0:side] / side
        edges = ((x * 5).astype(int) + (y * 5).astype(int)) % 2
        return Image.fromarray((np.stack([x, y, edges], axis=-1) * 255).astype(np.uint8))

    def classes(self, known: int) -> list[int]:
        return [(CLASS_LABEL + i) % known for i in range(self.pictures)]


@dataclass(frozen=True)
class Form:
    """How a family's pipeline is called.

    keywords: of Asked. sized: whether it takes height and width. steps: its keywords for the number
    of steps; () where it has none.
    """

    keywords: Callable[[Asked], dict[str, Any]]
    sized: bool = False
    steps: tuple[str, ...] = ("num_inference_steps",)
    more: dict[str, Any] = field(default_factory=dict)


def call_of(asked: Asked, quick: bool = False) -> Call:
    """The call for a checkpoint. Raises RequestError where its family has no such size or steps."""
    checkpoint = asked.checkpoint
    family = family_of(checkpoint.pipeline_class)
    form = form_of(family)
    keywords = form.keywords(asked) | _begun(asked)
    if asked.size is not None:
        if not form.sized:
            raise RequestError(f"size: a {checkpoint.pipeline_class} has one of its own: expected"
                               f" none, given {asked.size}")  # fmt: skip
        keywords |= {"height": asked.size, "width": asked.size}
    if asked.steps is not None and not form.steps:
        raise RequestError(f"steps: a {checkpoint.pipeline_class} has none: expected none, given"
                           f" {asked.steps}")  # fmt: skip
    count = asked.steps or (QUICK_STEPS if quick else STEPS)
    keywords |= dict.fromkeys(form.steps, count)
    seeds = tuple(SEED + i for i in range(asked.pictures))
    return Call(family.name, keywords, seeds, no_peer=_no_peer(family.name, asked), **form.more)


def form_of(family: Family) -> Form:
    """How a family's pipeline is called; of a layout of our own by what its call takes."""
    known = FORMS.get(family.name)
    if known is not None:
        return known
    takes = inspect.signature(family.pipeline_class.__call__).parameters
    steps = tuple(name for name in takes if name.endswith("num_inference_steps"))
    return Form(_prompted if "prompt" in takes else _counted, steps=steps)


def _begun(asked: Asked) -> dict[str, Any]:
    """Of a class that begins from a picture, or fills in a part of one."""
    kind, unet = asked.checkpoint.pipeline_class, "unet" in asked.checkpoint.models
    if not kind.startswith(("StableDiffusion", "LatentConsistency", "IF", "Kandinsky", "Amused")):
        return {}
    if "SuperResolution" in kind or not ("Img2Img" in kind or "Inpaint" in kind):
        return {}
    side = int(asked.config("unet").get("sample_size", 8)) if unet else 32
    side *= 1 if kind.startswith("IF") else 8
    given: dict[str, Any] = {"image": asked.photo(asked.size or side)}
    if kind.startswith("Kandinsky") and "Img2Img" in kind:
        given["strength"] = STRENGTH  # of its own 0.3 a quick run has less than a step
    if "Inpaint" in kind:
        given["mask_image"] = given["image"].convert("L").point(lambda v: 255 * (v > 127))
    return given


def _no_peer(family: str, asked: Asked) -> str:
    if family in _PEERLESS or family not in FORMS:
        kind = asked.checkpoint.pipeline_class
        return _PEERLESS.get(family, f"it has no pipeline for a {kind}")
    if not hasattr(asked.checkpoint, "folder"):
        return "it reads folders; the model is a single file"
    if family in ("ddpm", "ddim") and asked.config("unet").get("num_class_embeds"):
        return f"its {asked.checkpoint.pipeline_class} takes no classes"
    if family == "amused" and asked.pictures > 1:
        return "it draws all pictures of a call from one generator"
    return ""


_PEERLESS = {
    "janus": "it has no pipeline for Janus; transformers' is in `pyengine bench token`",
    "image_gpt": "it has no pipeline for ImageGPT",
    "picture_gpt": "it has no pipeline for a GPT; transformers' is in `pyengine bench token`",
    "dcgan": "it has no pipeline for DCGAN",
    "biggan": "it has no pipeline for BigGAN",
    "rrdbnet": "it has no pipeline for upscalers",
    "srvgg_compact": "it has no pipeline for upscalers",
}


# --- the families ---------------------------------------------------------------------------------


def _prompted(asked: Asked) -> dict[str, Any]:
    return {"prompt": PROMPT, "num_images_per_prompt": asked.pictures}


def _from_picture(asked: Asked) -> dict[str, Any]:
    return _prompted(asked) | {"image": asked.photo()}


def _from_depth(asked: Asked) -> dict[str, Any]:
    ramp = torch.linspace(0, 1, asked.size or SIDE)
    return _from_picture(asked) | {"depth_map": ramp.expand(1, len(ramp), len(ramp)).contiguous()}


def _unprompted(asked: Asked) -> dict[str, Any]:
    known = asked.config("unet").get("num_class_embeds")
    labels = {"class_labels": asked.classes(known)} if known else {}
    return {"batch_size": asked.pictures, **labels}


def _dit(asked: Asked) -> dict[str, Any]:
    return {"class_labels": asked.classes(asked.config("transformer")["num_embeds_ada_norm"])}


def _biggan(asked: Asked) -> dict[str, Any]:
    return {"class_labels": asked.classes(asked.config("model").get("num_classes", 1000))}


def _super_resolution(asked: Asked) -> dict[str, Any]:
    side = int(asked.config("unet").get("sample_size") or 4 * SIDE)
    return _prompted(asked) | {"image": asked.photo(side // 4)}


def _embeddings(asked: Asked) -> dict[str, Any]:
    width = asked.config("unet")["encoder_hid_dim"]
    both = torch.randn(2, 1, width, generator=torch.Generator().manual_seed(SEED))
    embeds = {"image_embeds": both[0], "negative_image_embeds": both[1]}
    return {**embeds, **_hint(asked), "num_images_per_prompt": asked.pictures}


def _hint(asked: Asked) -> dict[str, Any]:
    """Of Kandinsky's ControlNet, eight pixels a side for each of the latents'."""
    if asked.config("unet").get("addition_embed_type") != "image_hint":
        return {}
    from ..pipelines.kandinsky.pipeline import SIDE as USUAL
    from ..pipelines.kandinsky.pipeline import rounded

    factor = 2 ** (len(asked.config("movq")["block_out_channels"]) - 1)
    side = 8 * (rounded(asked.size or USUAL, factor) // factor)
    return {"hint": torch.linspace(0, 1, side).expand(1, 3, side, side).contiguous()}


def _counted(asked: Asked) -> dict[str, Any]:
    return {"num_images_per_prompt": asked.pictures}


def _variation(asked: Asked) -> dict[str, Any]:
    return {"image": asked.photo(), "num_images_per_prompt": asked.pictures}


def _upscaled(asked: Asked) -> dict[str, Any]:
    """Of a pipeline that draws one picture for each text."""
    return {"prompt": [PROMPT] * asked.pictures, "image": [asked.photo()] * asked.pictures}


_UNCLIP_STEPS = ("decoder_num_inference_steps", "super_res_num_inference_steps")
_PHASED = {"phases": True}
FORMS = {
    "stable_diffusion": Form(_prompted, sized=True, more=_PHASED),
    "latent_consistency": Form(_prompted, sized=True, more=_PHASED),
    "stable_diffusion_xl": Form(_prompted, sized=True, more=_PHASED),
    "depth_to_image": Form(_from_depth),
    "instruct_pix2pix": Form(_from_picture),
    "image_variation": Form(_variation, sized=True),
    "stable_diffusion_upscale": Form(_from_picture),
    "latent_upscale": Form(_upscaled),
    "dit": Form(_dit),
    "ddpm": Form(_unprompted),
    "ddim": Form(_unprompted),
    "deepfloyd_if": Form(_prompted, sized=True),
    "deepfloyd_if_super_resolution": Form(_super_resolution),
    "kandinsky_prior": Form(_prompted, more={"result": "image_embeds"}),
    "kandinsky": Form(_embeddings, sized=True),
    "kandinsky_combined": Form(
        _prompted, sized=True, steps=("prior_num_inference_steps", "num_inference_steps")
    ),
    "unclip": Form(_prompted, steps=("prior_num_inference_steps", *_UNCLIP_STEPS)),
    "unclip_image_variation": Form(_variation, steps=_UNCLIP_STEPS),
    "amused": Form(_prompted, sized=True),
    "janus": Form(_prompted, steps=()),
    "image_gpt": Form(_counted, steps=()),
    "picture_gpt": Form(_prompted, steps=()),
    "dcgan": Form(lambda asked: {"num_images": asked.pictures}, steps=()),
    "biggan": Form(_biggan, steps=()),
    "rrdbnet": Form(lambda asked: {"image": [asked.photo()] * asked.pictures}, steps=()),
    "srvgg_compact": Form(lambda asked: {"image": [asked.photo()] * asked.pictures}, steps=()),
}
