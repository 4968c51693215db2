"""One model, guided in several ways over several scales."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from ..errors import RequestError
from ..pipelines.shipped_guides import CLASSIFIER, CLIP
from ..pipelines.shipped_names import ASSETS
from .sheet import grid


@dataclass(frozen=True)
class Way:
    """A way of guiding. scales: what is compared; given: a scale to the call's arguments."""

    name: str
    scales: tuple[float, ...]
    given: Any


def ways(label: int | None = None) -> list[Way]:
    """None, classifier-free, and those of the guides that ship: a classifier's gradient towards the
    class `label`, where there is one, and CLIP's towards the prompt.
    """
    found = [
        Way("no guidance", (1.0,), lambda scale: {"guidance_scale": scale}),
        Way("classifier-free", (1.5, 2.5, 4.0, 8.0), lambda scale: {"guidance_scale": scale}),
    ]
    if label is not None and (ASSETS / CLASSIFIER / "config.json").exists():
        found.append(
            Way("classifier", (0.5, 1.0, 2.0, 5.0), lambda scale: {
                "guidance_scale": 1.0, "classifier": CLASSIFIER, "classifier_scale": scale,
                "class_labels": label,
            })
        )  # fmt: skip
    if (ASSETS / CLIP / "config.json").exists():
        found.append(
            Way("CLIP", (10.0, 30.0, 100.0, 300.0), lambda scale: {
                "guidance_scale": 1.0, "clip_model": CLIP, "clip_guidance_scale": scale,
            })
        )  # fmt: skip
    return found


def draw(pipe: Any, prompt: str, seed: int, chosen: Sequence[Way]) -> list[list[Image.Image]]:
    """A row of pictures for each way, all from the same noise.

    Raises RequestError for a model that takes no guidance.
    """
    if not hasattr(pipe, "denoiser") or not hasattr(pipe, "unet"):
        raise RequestError(
            f"guidance: expected a diffusion model, given {pipe.source}: other families take no"
            " gradients"
        )
    return [
        [pipe(prompt, seed=seed, progress=False, **way.given(s)).images[0] for s in way.scales]
        for way in chosen
    ]


def sheet_of(rows: Sequence[Sequence[Image.Image]], chosen: Sequence[Way]) -> Image.Image:
    """The rows, each under its way's name, with the scales."""
    names = [[way.name, *(f"{scale:g}" for scale in way.scales)] for way in chosen]
    return grid(rows, names=names)
