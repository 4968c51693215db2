"""diffusers' classes of Stable Diffusion beside ControlNets and T2I-Adapters."""

from typing import Any, ClassVar

from ...errors import RequestError
from ..diffusers_names.classes import Task
from .parts import Parts
from .pipeline import StableDiffusionPipeline
from .xl import StableDiffusionXLPipeline


class Beside(Task):
    """Base of a class that cannot do without what is loaded beside the model."""

    #: The keyword of from_pretrained.
    beside: ClassVar[str] = "controlnet"
    parts: Parts

    def _checked(self, arguments: dict[str, Any]) -> Any:
        if not (self.parts.controlnets if self.beside == "controlnet" else self.parts.t2i_adapters):
            raise RequestError(
                f"{self.beside}: a {type(self).__name__} needs one: from_pretrained"
                f"(..., {self.beside}=...)"
            )
        return super()._checked(arguments)


class StableDiffusionControlNetPipeline(Beside, StableDiffusionPipeline):
    """Text to pictures beside a ControlNet: pipe(prompt, image), the picture that it is shown."""

    needs = ("image",)


class StableDiffusionControlNetImg2ImgPipeline(Beside, StableDiffusionPipeline):
    """Pictures from a picture beside a ControlNet: pipe(prompt, image, control_image)."""

    needs = ("image", "control_image")


class StableDiffusionControlNetInpaintPipeline(Beside, StableDiffusionPipeline):
    """Inpainting beside a ControlNet: pipe(prompt, image, mask_image, control_image)."""

    needs = ("image", "mask_image", "control_image")


class StableDiffusionXLControlNetPipeline(Beside, StableDiffusionXLPipeline):
    """Text to pictures beside a ControlNet: pipe(prompt, image=...), what it is shown."""

    needs = ("image",)


class StableDiffusionXLControlNetImg2ImgPipeline(Beside, StableDiffusionXLPipeline):
    """Pictures from a picture beside a ControlNet: pipe(prompt, image=..., control_image=...)."""

    needs = ("image", "control_image")


class StableDiffusionXLControlNetInpaintPipeline(Beside, StableDiffusionXLPipeline):
    """Inpainting beside a ControlNet."""

    needs = ("image", "mask_image", "control_image")


class StableDiffusionXLControlNetUnionPipeline(Beside, StableDiffusionXLPipeline):
    """Text to pictures beside a ControlNet for several kinds of pictures: pipe(prompt,
    control_image=[...], control_mode=[...]).
    """

    needs = ("control_image", "control_mode")


class StableDiffusionXLControlNetUnionImg2ImgPipeline(Beside, StableDiffusionXLPipeline):
    """The same, from a picture."""

    needs = ("image", "control_image", "control_mode")


class StableDiffusionXLControlNetUnionInpaintPipeline(Beside, StableDiffusionXLPipeline):
    """The same, inpainting."""

    needs = ("image", "mask_image", "control_image", "control_mode")


class StableDiffusionAdapterPipeline(Beside, StableDiffusionPipeline):
    """Text to pictures beside a T2I-Adapter: pipe(prompt, image), the picture that it is shown."""

    beside = "adapter"
    needs = ("image",)


class StableDiffusionXLAdapterPipeline(Beside, StableDiffusionXLPipeline):
    """Text to pictures beside a T2I-Adapter: pipe(prompt, image=...), what it is shown."""

    beside = "adapter"
    needs = ("image",)
