"""DeepFloyd IF's further stages: a picture denoised beside a smaller one.

Ho et al. 2022, arXiv:2106.15282 (cascades, and the noise that a stage's picture gets); Saharia et
al. 2022, arXiv:2205.11487.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from ... import images as pictures
from ...diffusion.conditions import Conditions
from ...guard import inference
from ...jobs import checks
from ...jobs.noise import NoiseSource
from ...jobs.output import PipelineOutput
from ...jobs.runs import Run
from ...models.base import Model
from ...schedules.config import NoiseConfig
from ...schedules.noise import alphas_cumprod
from ..arguments import checked
from ..defaults import bounded
from ..diffusers_names.schedulers import NamedScheduler
from ..t5_tokenizer import T5Tokenizer
from ..unprompted import CALLBACK_TENSORS
from .pipeline import IFDefaults, IFPipeline, IFRequest


@dataclass(frozen=True)
class SuperResolutionDefaults(IFDefaults):
    """Of diffusers' IFSuperResolutionPipeline, and the strengths of those that begin from a
    picture.
    """

    num_inference_steps: int = bounded(50, 1, 1000)
    guidance_scale: float = bounded(4.0, 0, 1000)
    strength: float = bounded(0.8, 0, 1)
    inpaint_strength: float = bounded(0.8, 0, 1)
    noise_level: int = bounded(250, 0, 999)


@dataclass(kw_only=True)
class SuperResolutionRequest(IFRequest):
    """images: [N, 3, height, width] in -1..1, enlarged. noise_level: the timestep of the noise that
    they get. noise: that noise, while the request is carried out.
    """

    images: Tensor | None = None
    noise_level: int = 250
    noise: Tensor | None = None


class IFSuperResolutionPipeline(IFPipeline):
    """Small pictures and texts to larger pictures, with a checkpoint of IF's second stage or third;
    see `__call__`.
    """

    defaults_class: ClassVar[type[Any]] = SuperResolutionDefaults
    begins_from: ClassVar[str] = "original_image"

    def __init__(
        self,
        models: dict[str, Model],
        tokenizer: T5Tokenizer,
        checkpoint: Any,
        source: str,
        defaults: Any,
        scheduler: NamedScheduler,
        image_noising_scheduler: NamedScheduler,
    ):
        """image_noising_scheduler: says how much noise a noise_level is."""
        super().__init__(models, tokenizer, checkpoint, source, defaults, scheduler)
        self.image_noising_scheduler = image_noising_scheduler

    @property
    def components(self) -> dict[str, Any]:
        return {**super().components, "image_noising_scheduler": self.image_noising_scheduler}

    @property
    def channels(self) -> int:
        return super().channels // 2

    @property
    def default_size(self) -> tuple[int, int]:
        size = self.unet.config.sample_size or 256
        return size if isinstance(size, tuple) else (size, size)

    @inference
    def __call__(  # type: ignore[override]  # diffusers' order, which differs
        self,
        prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        image: Any = None,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        original_image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
        noise_level: int | None = None,
        guidance_method: str = "cfg",
        negative_scale: float | None = None,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        clip_model: Any = None,
        clip_guidance_scale: float | None = None,
        clip_prompt: str | Sequence[str] | None = None,
        clip_image: Any = None,
        classifier: Any = None,
        classifier_scale: float | None = None,
        class_labels: Any = None,
        latents: Tensor | None = None,
        timestep_spacing: str | None = None,
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
        """Larger pictures of small ones, as IFPipeline's call, which says what the other arguments
        are; names and order are those of diffusers' IFSuperResolutionPipeline, with what its
        IFImg2ImgSuperResolutionPipeline and IFInpaintingSuperResolutionPipeline have besides.

        Args:
            height, width: pixels of the result; those of original_image, else the model's own.
            image: the small pictures (PIL, arrays or tensors in 0..1, a batch or a list): one for
                all, one per prompt, or one per picture.
            num_inference_steps: 50 unless told.
            guidance_scale: 4 unless told.
            original_image: pictures to begin from, as IFPipeline's `image`: those that the small
                ones were made of.
            mask_image: white where original_image is made anew.
            strength: 0 to 1, the share of the steps that original_image goes through; 0.8 unless
                told.
            noise_level: 0 to 999, the timestep of the noise that the small picture gets; 250 unless
                told. More of it leaves more to the model.
        """
        output: PipelineOutput = self._call(locals())
        return output

    # --- the run ----------------------------------------------------------------------------------

    def _checked(self, arguments: dict[str, Any]) -> SuperResolutionRequest:
        image, level = (arguments.pop(name) for name in ("image", "noise_level"))
        level = checked({"noise_level": level}, self.defaults)["noise_level"]
        most = len(self.image_noising_scheduler) - 1
        if level > most:
            raise checks.refuse("noise_level", f"at most {most}", level)
        base = super()._checked(arguments)
        own = {f.name: getattr(base, f.name) for f in fields(base)}
        return SuperResolutionRequest(**own, images=self._enlarged(image, base), noise_level=level)

    def _enlarged(self, image: Any, r: IFRequest) -> Tensor:
        """[N, 3, height, width] in -1..1: one picture of `image` for each of the request's."""
        if image is None:
            raise checks.refuse("image", "a small picture, or a list of them", image)
        rows = []
        items = pictures.as_list(image, "image")
        order = checks.spread("image", list(range(len(items))), r.count, r.texts.batch)
        for item in items:
            unit = pictures.to_unit([item], *pictures.size_of(item), "image")
            # No op enlarges so: plain torch, a picture at a time.
            rows.append(
                torch.nn.functional.interpolate(
                    2.0 * unit - 1.0, (r.height, r.width), mode="bilinear", align_corners=True
                )
            )
        return torch.cat([rows[i] for i in order])

    def _noise(self, r: IFRequest, noise: NoiseSource) -> Tensor:
        """The noise of the start; then, as diffusers draws it, that of the small picture."""
        assert isinstance(r, SuperResolutionRequest)
        start = super()._noise(r, noise)
        r.noise = noise.draw((r.count, self.channels, r.height, r.width), self.dtype)
        return start

    def _conditions(self, r: IFRequest) -> Conditions:
        assert isinstance(r, SuperResolutionRequest)
        assert r.images is not None
        assert r.noise is not None
        config = self.image_noising_scheduler.sampler.config
        assert isinstance(config, NoiseConfig)
        a = alphas_cumprod(config)[r.noise_level]
        clean = r.images.to(self.device, self.dtype)
        conditions = super()._conditions(r)
        conditions.extra = float(a**0.5) * clean + float((1 - a) ** 0.5) * r.noise
        conditions.labels = torch.full((conditions.rows,), r.noise_level, device=self.device)
        return conditions
