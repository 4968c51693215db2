"""DDPM and DDIM: pictures from noise, denoised as pixels.

Ho et al. 2020, arXiv:2006.11239; Song et al. 2020, arXiv:2010.02502; with a variance that the
network predicts: Nichol & Dhariwal 2021, arXiv:2102.09672.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ...errors import RequestError
from ...guard import inference
from ...jobs import checks
from ...jobs.output import PipelineOutput
from ...jobs.runs import Run
from ...models import UNet2DModel
from ..class_labels import Labels
from ..defaults import bounded
from ..diffusers_names.schedulers import NamedScheduler, choose
from ..unprompted import (
    CALLBACK_TENSORS,
    UnpromptedDefaults,
    UnpromptedPipeline,
    UnpromptedRequest,
)


@dataclass(frozen=True)
class DDPMDefaults(UnpromptedDefaults):
    """Of diffusers' DDPMPipeline."""

    num_inference_steps: int = bounded(1000, 1, 1000)


@dataclass(frozen=True)
class DDIMDefaults(UnpromptedDefaults):
    """Of diffusers' DDIMPipeline."""


class DDPMPipeline(UnpromptedPipeline[UnpromptedRequest]):
    """Pictures of a UNet2DModel checkpoint; see `__call__`."""

    defaults_class: ClassVar[type[Any]] = DDPMDefaults
    main_part = "unet"
    #: diffusers' scheduler that the pipeline makes of the checkpoint's; None: as it is.
    sampler_class: ClassVar[str | None] = None

    def __init__(
        self, unet: UNet2DModel, checkpoint: Any, source: str, defaults: Any,
        scheduler: NamedScheduler, given: tuple[str, ...] = (),
    ):  # fmt: skip
        """given: names of the parts that did not come out of the checkpoint."""
        super().__init__({"unet": unet}, checkpoint, source, defaults, scheduler)
        self._given_parts = given

    @property
    def _class_name(self) -> str:
        return "DDPMPipeline"

    def _shared(self) -> None:
        """Of a pipeline that from_pipe made: what depends on its class."""
        if type(self.defaults) is not self.defaults_class:
            self.defaults = self.defaults_class()
        if self.sampler_class not in (None, type(self.scheduler).__name__):
            self.scheduler = self.sampler_class

    @property
    def _given(self) -> tuple[str, ...]:
        return self._given_parts

    @property
    def model_hash(self) -> str:
        """SHA-256 of the weights, hexadecimal; "" where they came as an object."""
        return "" if self._given_parts else super().model_hash

    @property
    def unet(self) -> UNet2DModel:
        return cast(UNet2DModel, self.network)

    @property
    def known_labels(self) -> Labels | None:
        c = self.unet.config
        if c.num_class_embeds is not None:
            return Labels("classes", c.num_class_embeds)
        kinds = {"timestep": Labels("times"), "identity": Labels("vectors", c.time_dim)}
        return None if c.class_embed_type is None else kinds[c.class_embed_type]

    @property
    def channels(self) -> int:
        return self.unet.config.in_channels

    @property
    def predicts_variance(self) -> bool:
        return self.unet.config.out_channels == 2 * self.channels

    @property
    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the model was trained for."""
        size = self.unet.config.size
        if size is None:
            raise RequestError(
                "height, width: expected both: the model's config names no sample_size"
            )
        return size

    @property
    def smallest_side(self) -> int:
        return 1 << (self.unet.config.levels - 1)

    def _check_size(self, height: Any, width: Any, count: int) -> tuple[int, int]:
        if self.unet.config.size is None and None not in (height, width):
            sides = [checks.side(n, s, 1) for n, s in (("height", height), ("width", width))]
            checks.check_total(sides[0], sides[1], count)
            return sides[0], sides[1]
        return super()._check_size(height, width, count)

    @inference
    def __call__(
        self,
        batch_size: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        num_inference_steps: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        class_labels: Any = None,
        classifier: Any = None,
        classifier_scale: float | None = None,
        clip_model: Any = None,
        clip_guidance_scale: float | None = None,
        clip_prompt: str | Sequence[str] | None = None,
        clip_image: Any = None,
        num_images_per_prompt: int = 1,
        height: int | None = None,
        width: int | None = None,
        timesteps: Sequence[int] | None = None,
        timestep_spacing: str | None = None,
        eta: float = 0.0,
        use_clipped_model_output: bool | None = None,
        latents: Tensor | None = None,
        seed: int | Sequence[int] | None = None,
        scheduler: str | None = None,
        upscaler: Any = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = CALLBACK_TENSORS,
        progress: bool | None = None,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """Pictures from noise; names and order are those of diffusers' DDPMPipeline.

        Args:
            batch_size: how many pictures.
            generator: one per picture, or one from which the batch is drawn as diffusers does.
            num_inference_steps: 1000 unless told, 50 of a DDIMPipeline.
            output_type: "pil", "np", "pt" or "latent", which is what was denoised, about -1..1.
            return_dict: False gives diffusers' tuple in place of a PipelineOutput.
            class_labels: of models that draw classes: one for all pictures, or one for each, which
                is then how many there are; also where a classifier guides, as the classes of that.
            classifier: a folder of guided-diffusion's EncoderUNetModel (config.json with its
                constructor's names, model.safetensors), or the model: its gradient guides.
            classifier_scale: how much of the gradient, 1 unless told; 0: none, the same bits.
            clip_model, clip_guidance_scale, clip_prompt, clip_image: as of
                StableDiffusionPipeline's call: a CLIP whose gradient guides, to clip_prompt or
                clip_image.
            num_images_per_prompt: so many times as many, those of a class one after the other.
            height, width: pixels; the model's own.
            timesteps: the steps themselves, descending, for samplers that take them.
            timestep_spacing: "leading", "linspace" or "trailing", not the sampler's own.
            eta: DDIM's noise, 0 to 1.
            use_clipped_model_output: DDIM's noise is what is left beside the clipped clean sample.
            latents: [N, C, height, width] standard normal noise in place of drawn.
            seed: s gives picture i the seed s + i; a list one each; None random ones, which the
                result tells.
            scheduler: a sampler by name (pyengine.schedules.SAMPLER_NAMES), not the checkpoint's.
            upscaler: a file or folder of one, or an UpscalePipeline, which enlarges the pictures.
            callback_on_step_end: called as (pipe, step, timestep, {"latents": tensor}) after every
                model evaluation; it may return them changed.
            progress: a bar on standard error; None shows one on a terminal.
            timeout: seconds to wait for calls of other threads, then BusyError.
            run: a Run, to end this call from elsewhere.

        With seeds, or a generator per picture, a picture does not depend on the others in the
        call. Raises RequestError that names the argument.
        """
        output: PipelineOutput = self._call(locals())
        return output

    def _checked(self, arguments: dict[str, Any]) -> UnpromptedRequest:
        clipped = arguments["use_clipped_model_output"]
        if clipped is not None and not isinstance(clipped, bool):
            raise checks.refuse("use_clipped_model_output", "True, False or None", clipped)
        return self._request(**{**arguments, "use_clipped_model_output": clipped or None})


class DDIMPipeline(DDPMPipeline):
    """The same by DDIM, whatever sampler the checkpoint was saved with; the arguments' order is
    that of diffusers' DDIMPipeline.
    """

    defaults_class = DDIMDefaults
    sampler_class = "DDIMScheduler"

    @property
    def _class_name(self) -> str:
        return "DDIMPipeline"

    @inference
    def __call__(  # type: ignore[override]  # diffusers' order, which differs
        self,
        batch_size: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        eta: float = 0.0,
        num_inference_steps: int | None = None,
        use_clipped_model_output: bool | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        class_labels: Any = None,
        classifier: Any = None,
        classifier_scale: float | None = None,
        clip_model: Any = None,
        clip_guidance_scale: float | None = None,
        clip_prompt: str | Sequence[str] | None = None,
        clip_image: Any = None,
        num_images_per_prompt: int = 1,
        height: int | None = None,
        width: int | None = None,
        timesteps: Sequence[int] | None = None,
        timestep_spacing: str | None = None,
        latents: Tensor | None = None,
        seed: int | Sequence[int] | None = None,
        scheduler: str | None = None,
        upscaler: Any = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = CALLBACK_TENSORS,
        progress: bool | None = None,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """Pictures from noise in diffusers' order of arguments; see DDPMPipeline.__call__, which
        says what they are.


        """
        output: PipelineOutput = self._call(locals())
        return output


def scheduler_of(cls: type[DDPMPipeline], keys: dict[str, Any], wanted: Any) -> NamedScheduler:
    """The scheduler of a checkpoint with these keys; wanted: what the caller named in its place."""
    if wanted is None and cls.sampler_class != keys.get("_class_name"):
        wanted = cls.sampler_class
    return choose(wanted, keys, cls.__name__)
