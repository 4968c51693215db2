"""diffusers' classes of Stable Diffusion that do one task."""

from ..diffusers_names.classes import Task
from .defaults import DistilledDefaults
from .pipeline import StableDiffusionPipeline
from .xl import StableDiffusionXLPipeline


class StableDiffusionImg2ImgPipeline(Task, StableDiffusionPipeline):
    """Pictures from a picture: pipe(prompt, image, strength=0.8)."""

    needs = ("image",)


class StableDiffusionInpaintPipeline(Task, StableDiffusionPipeline):
    """What is white in a mask made anew: pipe(prompt, image, mask_image, strength=1.0)."""

    needs = ("image", "mask_image")


class StableDiffusionXLImg2ImgPipeline(Task, StableDiffusionXLPipeline):
    """Pictures from a picture, also by a refiner: pipe(prompt, image=image, strength=0.3)."""

    needs = ("image",)


class StableDiffusionXLInpaintPipeline(Task, StableDiffusionXLPipeline):
    """What is white in a mask made anew: pipe(prompt, image=image, mask_image=mask)."""

    needs = ("image", "mask_image")


class LatentConsistencyModelPipeline(Task, StableDiffusionPipeline):
    """Pictures in few steps (4 unless told) by a distilled model."""

    defaults_class = DistilledDefaults


class LatentConsistencyModelImg2ImgPipeline(Task, StableDiffusionPipeline):
    """Pictures from a picture in few steps: pipe(prompt, image)."""

    needs = ("image",)
    defaults_class = DistilledDefaults
