"""One model, guided in several ways over several scales."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..errors import RequestError
from ..pipelines.shipped_guides import CLASSIFIER, CLIP
from ..pipelines.shipped_names import ASSETS
from ..weights import load_json
from .sheet import grid

#: From a scale to a call's arguments.
Given = Callable[[float], dict[str, Any]]


@dataclass(frozen=True)
class Way:
    """A way of guiding. scales: what is compared."""

    name: str
    scales: tuple[float, ...]
    given: Given


#: What is compared of each way.
SCALES: dict[str, tuple[float, ...]] = {
    "no guidance": (1.0,),
    "classifier-free": (1.5, 2.5, 4.0, 8.0),
    "classifier": (1.0, 3.0, 10.0, 30.0),
    "CLIP": (10.0, 30.0, 100.0, 300.0),
    "no prompt": (1.0,),
    "classifier alone": (1.0, 3.0, 10.0, 30.0),
    "CLIP alone": (100.0, 300.0, 1000.0, 3000.0),
}


def ways(prompt: str, label: int | None = None) -> list[Way]:
    """None, classifier-free, and those of the guides that ship, beside the prompt and alone: a
    classifier's gradient towards the class `label`, where there is one, and CLIP's towards the
    prompt.
    """

    def free(scale: float) -> dict[str, Any]:
        return {"guidance_scale": scale}

    def towards(scale: float) -> dict[str, Any]:
        return {
            **free(1.0),
            "classifier": CLASSIFIER,
            "classifier_scale": scale,
            "class_labels": label,
        }

    def like(scale: float) -> dict[str, Any]:
        return {
            **free(1.0),
            "clip_model": CLIP,
            "clip_guidance_scale": scale,
            "clip_prompt": prompt,
        }

    def alone(given: Given) -> Given:
        return lambda scale: {**given(scale), "prompt": ""}

    found = {
        "no guidance": free,
        "classifier-free": free,
        "classifier": towards,
        "CLIP": like,
        "no prompt": alone(free),
        "classifier alone": alone(towards),
        "CLIP alone": alone(like),
    }
    return [
        Way(name, SCALES[name], given)
        for name, given in found.items()
        if label is not None or "classifier_scale" not in given(1.0)
    ]


def fits(pipe: Any) -> bool:
    """Whether the classifier that ships reads what the pipeline's U-Net denoises."""
    file = ASSETS / CLASSIFIER / "config.json"
    unet = getattr(pipe, "unet", None)
    if unet is None or not file.exists():
        return False
    own, c = load_json(file), unet.config
    return (own["in_channels"], own["image_size"]) == (c.out_channels, c.sample_size)


def draw(pipe: Any, prompt: str, seed: int, chosen: Sequence[Way]) -> list[list[Image.Image]]:
    """A row of pictures for each way, all from the same noise.

    Raises RequestError for a model that takes no guidance.
    """
    takes = inspect.signature(type(pipe).__call__).parameters
    if not {"prompt", "guidance_scale", "clip_model"} <= takes.keys():
        raise RequestError(
            "guidance: expected a diffusion model of prompts that gradients guide, given"
            f" {pipe.source}"
        )
    call = {"prompt": prompt, "seed": seed, "progress": False}
    return [
        [pipe(**{**call, **way.given(scale)}).images[0] for scale in way.scales] for way in chosen
    ]


def sheet_of(rows: Sequence[Sequence[Image.Image]], chosen: Sequence[Way]) -> Image.Image:
    """The rows, each under its way's name, with the scales."""
    names = [[way.name, *(f"{scale:g}" for scale in way.scales)] for way in chosen]
    return grid(rows, names=names)
