"""diffusers' classes by task: the order of their calls' arguments, and what each needs.

`pyengine.from_pretrained` gives a pipeline that does all tasks of its model. A script for diffusers
names a class for one, and gives that task's arguments by position: these are such classes, over the
same models. ORDERS is the one table of the orders; the defaults are those of the pipelines.
"""

from __future__ import annotations

import inspect
import os
import re
from typing import Any, ClassVar, NoReturn

from ...errors import RequestError
from ...jobs.output import PipelineOutput
from ..amused.pipeline import AmusedPipeline
from ..stable_diffusion.defaults import DistilledDefaults
from ..stable_diffusion.pipeline import StableDiffusionPipeline
from ..stable_diffusion.xl import StableDiffusionXLPipeline

_EMBEDS = "prompt_embeds negative_prompt_embeds"
_XL_EMBEDS = f"{_EMBEDS} pooled_prompt_embeds negative_pooled_prompt_embeds"
_IP = "ip_adapter_image ip_adapter_image_embeds"
_OUT = "output_type return_dict cross_attention_kwargs"
_BACK = "callback_on_step_end callback_on_step_end_tensor_inputs"
_STEPS = "num_inference_steps timesteps sigmas"
_NEGATIVE = "guidance_scale negative_prompt num_images_per_prompt eta generator"
_XL_NEGATIVE = (
    "guidance_scale negative_prompt negative_prompt_2 num_images_per_prompt eta generator latents"
)
_XL_SIZES = (
    "original_size crops_coords_top_left target_size negative_original_size"
    " negative_crops_coords_top_left negative_target_size"
)
_XL_REST = f"{_XL_EMBEDS} {_IP} {_OUT} guidance_rescale {_XL_SIZES}"
_SCORES = "aesthetic_score negative_aesthetic_score"
_MASK = "mask_image masked_image_latents height width padding_mask_crop"
_LCM = "guidance_scale num_images_per_prompt generator latents prompt_embeds"
_AMUSED = "num_inference_steps guidance_scale negative_prompt num_images_per_prompt generator"
_AMUSED_REST = (
    "prompt_embeds encoder_hidden_states negative_prompt_embeds negative_encoder_hidden_states"
    " output_type return_dict callback callback_steps cross_attention_kwargs"
    " micro_conditioning_aesthetic_score micro_conditioning_crop_coord temperature"
)
#: By class: the arguments of its call, in the order in which diffusers 0.42 takes them.
ORDERS = {
    "StableDiffusionPipeline": f"prompt height width {_STEPS} {_NEGATIVE} latents {_EMBEDS} {_IP}"
    f" {_OUT} guidance_rescale clip_skip {_BACK}",
    "StableDiffusionImg2ImgPipeline": f"prompt image strength {_STEPS} {_NEGATIVE} {_EMBEDS} {_IP}"
    f" {_OUT} clip_skip {_BACK}",
    "StableDiffusionInpaintPipeline": f"prompt image {_MASK} strength {_STEPS} {_NEGATIVE} latents"
    f" {_EMBEDS} {_IP} {_OUT} clip_skip {_BACK}",
    "StableDiffusionXLPipeline": f"prompt prompt_2 height width {_STEPS} denoising_end"
    f" {_XL_NEGATIVE} {_XL_REST} clip_skip {_BACK}",
    "StableDiffusionXLImg2ImgPipeline": f"prompt prompt_2 image strength {_STEPS} denoising_start"
    f" denoising_end {_XL_NEGATIVE} {_XL_REST} {_SCORES} clip_skip {_BACK}",
    "StableDiffusionXLInpaintPipeline": f"prompt prompt_2 image {_MASK} strength {_STEPS}"
    f" denoising_start denoising_end {_XL_NEGATIVE} {_XL_REST} {_SCORES} clip_skip {_BACK}",
    "LatentConsistencyModelPipeline": "prompt height width num_inference_steps"
    f" original_inference_steps timesteps {_LCM} {_IP} {_OUT} clip_skip {_BACK}",
    "LatentConsistencyModelImg2ImgPipeline": "prompt image num_inference_steps strength"
    f" original_inference_steps timesteps {_LCM} {_IP} {_OUT} clip_skip {_BACK}",
    "AmusedPipeline": f"prompt height width {_AMUSED} latents {_AMUSED_REST}",
    "AmusedImg2ImgPipeline": f"prompt image strength {_AMUSED} {_AMUSED_REST}",
    "AmusedInpaintPipeline": f"prompt image mask_image strength {_AMUSED} {_AMUSED_REST}",
}


class Task:
    """Base of a class for one task: its call takes arguments by position, in diffusers' order."""

    #: Arguments that the task cannot do without.
    needs: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if cls.__name__ in ORDERS:
            cls.__call__ = _call_of(cls)  # type: ignore[method-assign]

    def __call__(self, *args: Any, **given: Any) -> PipelineOutput:
        """The pipeline's call; the arguments may come by position as diffusers' class has them."""
        raise NotImplementedError


def _call_of(cls: type[Any]) -> Any:
    names = ORDERS[cls.__name__].split()

    def call(self: Any, *args: Any, **given: Any) -> Any:
        if len(args) > len(names):
            raise RequestError(
                f"{cls.__name__}: expected at most {len(names)} arguments by position, given"
                f" {len(args)}"
            )
        for name, value in zip(names, args, strict=False):
            if name in given:
                raise RequestError(f"{name}: given twice, by position and by name")
            given[name] = value
        for name in cls.needs:
            if given.get(name) is None:
                raise RequestError(f"{name}: a {cls.__name__} needs one, given none")
        return super(Task, self).__call__(**given)

    call.__doc__ = Task.__call__.__doc__
    call.__name__, call.__qualname__ = "__call__", f"{cls.__name__}.__call__"
    call.__signature__ = _signature(cls, names)  # type: ignore[attr-defined]
    return call


def _signature(cls: type[Any], names: list[str]) -> inspect.Signature:
    """What help() shows: the arguments that the pipeline has, those of `names` by position."""
    own = dict(inspect.signature(super(Task, cls).__call__).parameters)
    first, *_ = own
    kinds = inspect.Parameter
    ordered = [own[n] for n in names if n in own]
    rest = [p for n, p in own.items() if n not in names and n != first and p.kind != p.VAR_KEYWORD]
    others = [p for p in own.values() if p.kind == p.VAR_KEYWORD]
    default = [p if p.default is not p.empty else p.replace(default=None) for p in ordered]
    return inspect.Signature(
        [kinds(first, kinds.POSITIONAL_OR_KEYWORD)]
        + [p.replace(kind=kinds.POSITIONAL_OR_KEYWORD) for p in default]
        + [p.replace(kind=kinds.KEYWORD_ONLY) for p in rest]
        + others
    )


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


class AmusedImg2ImgPipeline(Task, AmusedPipeline):
    """Pictures from a picture by masked tokens: pipe(prompt, image, strength=0.5)."""

    needs = ("image",)


class AmusedInpaintPipeline(Task, AmusedPipeline):
    """What is white in a mask made anew: pipe(prompt, image, mask_image)."""

    needs = ("image", "mask_image")


#: By family, as its class is called without task and "Pipeline": what draws from text, from a
#: picture, and within a mask.
TASKS: dict[str, tuple[type[Any] | None, ...]] = {
    "StableDiffusion": (
        StableDiffusionPipeline,
        StableDiffusionImg2ImgPipeline,
        StableDiffusionInpaintPipeline,
    ),
    "StableDiffusionXL": (
        StableDiffusionXLPipeline,
        StableDiffusionXLImg2ImgPipeline,
        StableDiffusionXLInpaintPipeline,
    ),
    "LatentConsistencyModel": (
        LatentConsistencyModelPipeline,
        LatentConsistencyModelImg2ImgPipeline,
        None,
    ),
    "Amused": (AmusedPipeline, AmusedImg2ImgPipeline, AmusedInpaintPipeline),
}
_TEXT, _IMAGE, _INPAINT = range(3)


def class_of(pipeline_class: str) -> type[Any]:
    """The class of that name; for models that transformers saves, their pipeline."""
    from ..loading import family_class

    for classes in TASKS.values():
        for cls in classes:
            if cls is not None and cls.__name__ == pipeline_class:
                return cls
    return family_class(pipeline_class)


def for_task(pipeline_class: str, task: int) -> type[Any]:
    """The class that does a task with the models of diffusers' (transformers') class.

    Raises RequestError where there is none.
    """
    from ..loading import family_class

    family = re.sub(r"(Img2Img|Inpaint)?Pipeline$", "", pipeline_class)
    if family in TASKS:
        found = TASKS[family][task]
    else:
        own = family_class(pipeline_class)
        found = own if task == _TEXT and own.takes_prompt else None
    if found is None:
        what = ("text alone", "a picture", "a picture and a mask")[task]
        raise RequestError(f"model: a {pipeline_class} has no class that draws from {what}")
    return found


class DiffusionPipeline:
    """Loads the class that a checkpoint's model_index.json names; never made itself."""

    def __init__(self, *_: Any, **__: Any) -> NoReturn:
        name = type(self).__name__
        raise TypeError(f"{name} is not made itself: {name}.from_pretrained(...) gives a pipeline")

    @classmethod
    def from_pretrained(cls, model: str | os.PathLike[str] | None = None, **keywords: Any) -> Any:
        """As pyengine.from_pretrained, which takes the same keywords."""
        from ..loading import load
        from .base import named_model

        model = named_model(model, keywords, "pretrained_model_name_or_path")
        return load(model, keywords, cls._class)

    @classmethod
    def from_single_file(cls, path: str | os.PathLike[str] | None = None, **keywords: Any) -> Any:
        """See StableDiffusionPipeline.from_single_file."""
        from .single import load_single

        return load_single(path, keywords, cls._class)

    @classmethod
    def from_pipe(cls, pipeline: Any, **keywords: Any) -> Any:
        """The class over another pipeline's models; see StableDiffusionPipeline.from_pipe."""
        from .sharing import from_pipe

        return from_pipe(cls._class, pipeline, keywords)

    @staticmethod
    def _class(pipeline_class: str) -> type[Any]:
        return class_of(pipeline_class)


class AutoPipelineForText2Image(DiffusionPipeline):
    """Loads the class that draws from text."""

    @staticmethod
    def _class(pipeline_class: str) -> type[Any]:
        return for_task(pipeline_class, _TEXT)


class AutoPipelineForImage2Image(DiffusionPipeline):
    """Loads the class that draws from a picture."""

    @staticmethod
    def _class(pipeline_class: str) -> type[Any]:
        return for_task(pipeline_class, _IMAGE)


class AutoPipelineForInpainting(DiffusionPipeline):
    """Loads the class that draws within a mask."""

    @staticmethod
    def _class(pipeline_class: str) -> type[Any]:
        return for_task(pipeline_class, _INPAINT)
