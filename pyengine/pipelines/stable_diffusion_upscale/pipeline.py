"""Stable Diffusion's x4 upscaler: latents of a large picture beside a small one in pixels.

Rombach et al. 2022, arXiv:2112.10752; the small picture gets noise, of which the U-Net is told how
much: Ho et al. 2022, arXiv:2106.15282.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import images as pictures
from ...diffusion.conditions import Conditions
from ...diffusion.request import Request
from ...errors import RequestError
from ...guard import inference
from ...jobs import checks
from ...jobs.noise import NoiseSource
from ...jobs.output import PipelineOutput
from ...jobs.runs import Run
from ...schedules.config import NoiseConfig
from ...schedules.noise import alphas_cumprod
from ..arguments import checked
from ..defaults import bounded
from ..diffusers_names.schedulers import NamedScheduler
from ..loras import LoraArgument
from ..stable_diffusion.defaults import Defaults
from ..stable_diffusion.pipeline import StableDiffusionPipeline
from ..stable_diffusion.unasked import unasked

#: Where model_index.json says no other.
MAX_NOISE_LEVEL = 350
#: Of the autoencoder: diffusers' pipeline sets it.
SCALING_FACTOR = 0.08333


@dataclass(frozen=True)
class UpscaleDefaults(Defaults):
    """noise_level: the timestep of the noise that the small picture gets."""

    num_inference_steps: int = bounded(75, 1, 1000)
    guidance_scale: float = 9.0
    noise_level: int = bounded(20, 0, 999)


@dataclass(kw_only=True)
class UpscaleRequest(Request):
    """small: the pictures as they were given, one for each that is drawn. noise_level: the timestep
    of the noise that they get.
    """

    small: Sequence[Any] = ()
    noise_level: int = 20


class StableDiffusionUpscalePipeline(StableDiffusionPipeline):
    """Pictures four times as large of small ones and texts; see `__call__`.

    low_res_scheduler: says how much noise a noise_level is; max_noise_level: the greatest.
    """

    defaults_class = UpscaleDefaults
    low_res_scheduler: NamedScheduler
    max_noise_level: int

    @inference
    def __call__(  # type: ignore[override]  # diffusers' order of arguments, which is another
        self,
        prompt: str | Sequence[str] | None = None,
        image: Any = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        noise_level: int | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        cross_attention_kwargs: Mapping[str, Any] | None = None,
        clip_skip: int | None = None,
        *,
        seed: int | Sequence[int] | None = None,
        lora: LoraArgument = None,
        prompt_weighting: str | None = None,
        upscaler: Any = None,
        guidance_method: str = "cfg",
        negative_scale: float | None = None,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        scheduler: str | None = None,
        progress: bool | None = None,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """Names and order are those of diffusers' StableDiffusionUpscalePipeline; what is not told
        here is as in StableDiffusionPipeline.__call__.

        Args:
            prompt: what the picture shows.
            image: the small picture, or one for each prompt or picture, of one size; its sides
                times the autoencoder's factor (4) are those of the result. A side that the factor
                does not divide is shrunk to the next that it does.
            noise_level: 0 to the checkpoint's max_noise_level (350), the timestep of the noise that
                the small picture gets; 20 unless told. More of it leaves more to the model.
            latents: [N, C, h, w] standard normal noise in place of drawn, of the small picture's
                height and width.
        """
        made: PipelineOutput = self._call(locals())
        return made

    def _checked(self, arguments: dict[str, Any]) -> UpscaleRequest:
        image, level = (arguments.pop(name) for name in ("image", "noise_level"))
        if image is None:
            raise RequestError(f"image: a {type(self).__name__} needs one, given none")
        level = checked({"noise_level": level}, self.defaults)["noise_level"]
        if level > self.max_noise_level:
            raise checks.refuse("noise_level", f"at most {self.max_noise_level}", level)
        items = pictures.as_list(image, "image")
        height, width = self._size(items)
        size = {"height": height, "width": width}
        r = super()._checked({**unasked(), **arguments, **size})
        if r.count % len(items):
            raise checks.refuse(
                "image", f"a number of them that divides {r.count} pictures", len(items)
            )
        small = [items[i * len(items) // r.count] for i in range(r.count)]
        return UpscaleRequest(**vars(r), small=small, noise_level=level)

    def _size(self, items: Sequence[Any]) -> tuple[int, int]:
        """(height, width) of the result."""
        sizes = {pictures.size_of(item) for item in items}
        if len(sizes) > 1:
            raise RequestError(
                "image: expected pictures of one size, given "
                + ", ".join(f"{h}x{w}" for h, w in sorted(sizes))
            )
        factor = self.vae.config.downscale
        small = [side - side % factor for side in next(iter(sizes))]
        if 0 in small:
            raise checks.refuse("image", f"at least {factor}x{factor} pixels", sizes.pop())
        return small[0] * factor, small[1] * factor

    def _conditions(self, r: Request, warned: list[str]) -> Conditions:
        assert isinstance(r, UpscaleRequest)
        found = super()._conditions(r, warned)
        found.labels = torch.full((found.rows,), r.noise_level, device=self.device)
        factor = self.vae.config.downscale
        height, width = r.height // factor, r.width // factor
        small = pictures.to_tensor(r.small, height, width, "image", warned)
        found.extra = small.to(self.device, self.dtype)
        return found

    def _noise_conditions(self, r: Request, conditions: Conditions, noise: NoiseSource) -> None:
        """Adds noise to the small pictures: drawn before the start's, as diffusers does."""
        assert isinstance(r, UpscaleRequest)
        clean = conditions.extra
        assert clean is not None
        config = self.low_res_scheduler.sampler.config
        assert isinstance(config, NoiseConfig)
        a = alphas_cumprod(config)[r.noise_level]
        drawn = noise.draw(clean.shape, self.dtype)
        conditions.extra = float(a**0.5) * clean + float((1 - a) ** 0.5) * drawn
