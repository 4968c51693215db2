"""diffusers' classes of Kandinsky 2.2 that do one task."""

from ..diffusers_names.classes import Task
from .combined import KandinskyV22CombinedPipeline
from .pipeline import KandinskyV22Pipeline


class KandinskyV22Img2ImgPipeline(Task, KandinskyV22Pipeline):
    """Pictures from a picture: pipe(image_embeds, image, negative_image_embeds, strength=0.3)."""

    needs = ("image",)


class KandinskyV22InpaintPipeline(Task, KandinskyV22Pipeline):
    """What is white in a mask made anew: pipe(image_embeds, image, mask_image, negative...)."""

    needs = ("image", "mask_image")


class KandinskyV22ControlnetPipeline(Task, KandinskyV22Pipeline):
    """Pictures like a hint, such as a map of depths: pipe(image_embeds, negative..., hint)."""

    needs = ("hint",)


class KandinskyV22ControlnetImg2ImgPipeline(Task, KandinskyV22Pipeline):
    """From a picture, like a hint: pipe(image_embeds, image, negative..., hint, strength=0.3)."""

    needs = ("image", "hint")


class KandinskyV22Img2ImgCombinedPipeline(Task, KandinskyV22CombinedPipeline):
    """Pictures from a picture and a text: pipe(prompt, image, strength=0.3)."""

    needs = ("image",)


class KandinskyV22InpaintCombinedPipeline(Task, KandinskyV22CombinedPipeline):
    """What is white in a mask made anew: pipe(prompt, image, mask_image)."""

    needs = ("image", "mask_image")
