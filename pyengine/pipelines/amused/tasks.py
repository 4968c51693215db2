"""diffusers' classes of aMUSEd that do one task."""

from ..diffusers_names.classes import Task
from .pipeline import AmusedPipeline


class AmusedImg2ImgPipeline(Task, AmusedPipeline):  # type: ignore[misc]  # its call gives AmusedPipeline's
    """Pictures from a picture by masked tokens: pipe(prompt, image, strength=0.5)."""

    needs = ("image",)


class AmusedInpaintPipeline(Task, AmusedPipeline):  # type: ignore[misc]  # its call gives AmusedPipeline's
    """What is white in a mask made anew: pipe(prompt, image, mask_image)."""

    needs = ("image", "mask_image")
