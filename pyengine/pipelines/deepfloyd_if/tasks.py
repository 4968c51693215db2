"""diffusers' classes of DeepFloyd IF that do one task."""

from dataclasses import dataclass

from ..defaults import bounded
from ..diffusers_names.classes import Task
from .pipeline import IFDefaults, IFPipeline
from .super_resolution import IFSuperResolutionPipeline, SuperResolutionDefaults


@dataclass(frozen=True)
class ImageToImageDefaults(IFDefaults):
    """Of diffusers' IFImg2ImgPipeline."""

    num_inference_steps: int = bounded(80, 1, 1000)
    guidance_scale: float = bounded(10.0, 0, 1000)


@dataclass(frozen=True)
class InpaintingDefaults(IFDefaults):
    """Of diffusers' IFInpaintingPipeline."""

    num_inference_steps: int = bounded(50, 1, 1000)


@dataclass(frozen=True)
class InpaintingSuperResolutionDefaults(SuperResolutionDefaults):
    """Of diffusers' IFInpaintingSuperResolutionPipeline."""

    num_inference_steps: int = bounded(100, 1, 1000)
    noise_level: int = bounded(0, 0, 999)


class IFImg2ImgPipeline(Task, IFPipeline):
    """Pictures from a picture: pipe(prompt, image, strength=0.7)."""

    needs = ("image",)
    defaults_class = ImageToImageDefaults


class IFInpaintingPipeline(Task, IFPipeline):
    """What is white in a mask made anew: pipe(prompt, image, mask_image, strength=1.0)."""

    needs = ("image", "mask_image")
    defaults_class = InpaintingDefaults


class IFImg2ImgSuperResolutionPipeline(Task, IFSuperResolutionPipeline):
    """A small picture enlarged, from a large one that it was made of: pipe(image, original_image,
    strength=0.8, prompt=prompt).
    """

    needs = ("image", "original_image")


class IFInpaintingSuperResolutionPipeline(Task, IFSuperResolutionPipeline):
    """A small picture enlarged where a mask is white, the original elsewhere: pipe(image,
    original_image, mask_image, strength=0.8, prompt=prompt).
    """

    needs = ("image", "original_image", "mask_image")
    defaults_class = InpaintingSuperResolutionDefaults
