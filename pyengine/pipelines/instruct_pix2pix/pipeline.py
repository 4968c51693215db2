"""InstructPix2Pix: a picture changed as a text says.  Brooks et al. 2023, arXiv:2211.09800."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import images as pictures
from ...diffusion.conditions import Conditions
from ...diffusion.latents import LatentMaker, Start, tile
from ...diffusion.request import Request
from ...errors import RequestError
from ...finite import check_finite
from ...guard import inference
from ...jobs import checks
from ...jobs.noise import NoiseSource
from ...jobs.output import PipelineOutput, Report
from ...jobs.runs import Run
from ...models import AutoencoderTiny
from ...schedules import Plan
from ..arguments import check
from ..defaults import bounded
from ..loras import LoraArgument
from ..stable_diffusion.defaults import Defaults
from ..stable_diffusion.embeddings import joined
from ..stable_diffusion.pipeline import StableDiffusionPipeline
from ..stable_diffusion.unasked import unasked
from .guidance import PictureAndText


@dataclass(frozen=True)
class InstructDefaults(Defaults):
    """image_guidance_scale: how much the picture that is changed guides."""

    num_inference_steps: int = bounded(100, 1, 1000)
    image_guidance_scale: float = bounded(1.5, 0, 1000)


class StableDiffusionInstructPix2PixPipeline(StableDiffusionPipeline):
    """Pictures changed as a text says, by an InstructPix2Pix checkpoint; see `__call__`."""

    defaults_class = InstructDefaults

    @inference
    def __call__(  # type: ignore[override]  # diffusers' order of arguments, which is another
        self,
        prompt: str | Sequence[str] | None = None,
        image: Any = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        image_guidance_scale: float | None = None,
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
        *,
        seed: int | Sequence[int] | None = None,
        lora: LoraArgument = None,
        prompt_weighting: str | None = None,
        upscaler: Any = None,
        scheduler: str | None = None,
        clip_skip: int | None = None,
        progress: bool | None = None,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """Names and order are those of diffusers' StableDiffusionInstructPix2PixPipeline; what is
        not told here is as in StableDiffusionPipeline.__call__.

        Args:
            prompt: what is to be done to the picture.
            image: the picture to change, or one for each prompt or picture; or latents of it, not
                scaled. It decides the size.
            guidance_scale: how much the text guides; 1 or less leaves all guidance out.
            image_guidance_scale: how much the picture guides, 1.5 unless told; below 1 leaves all
                guidance out. With guidance a picture takes three rows of an evaluation.
            latents: [N, C, h, w] standard normal noise in place of drawn.
        """
        made: PipelineOutput = self._call(locals())
        return made

    def _checked(self, arguments: dict[str, Any]) -> Request:
        given = arguments.pop("image_guidance_scale")
        if arguments["image"] is None:
            raise RequestError(f"image: a {type(self).__name__} needs one, given none")
        default = self.defaults.image_guidance_scale
        scale = check("image_guidance_scale", default if given is None else given)
        latents = arguments.pop("latents")
        r = super()._checked({**unasked(), **arguments})
        r.method = PictureAndText(image_scale=scale)
        r.strength = 1.0
        if latents is not None:
            c = self.vae.config
            shape = r.count, c.latent_channels, r.height // c.downscale, r.width // c.downscale
            r.latents = checks.check_latents(latents, shape)
        return r

    def _report(self, r: Request) -> Report:
        report = super()._report(r)
        report.strength = None
        return report

    def _conditions(self, r: Request, warned: list[str]) -> Conditions:
        """Rows without prompt and picture first, then those with the picture, then with both."""
        embeds = self._embeds(r.texts, self._guides(r.scales, r.method), r.clip_skip, warned)
        embeds = embeds.repeated(r.per_prompt).to(self.device, self.parts.encoders[-1].dtype)
        assert embeds.text is not None
        shown, text = self._image_latents(r, warned), embeds.text
        if embeds.negative is not None:
            both = joined("prompt_embeds", embeds.negative, text)
            text = torch.cat([embeds.negative, both])
            shown = torch.cat([torch.zeros_like(shown), shown, shown])
        return Conditions(text, extra=shown, text_lengths=self._text_lengths(r))

    def _image_latents(self, r: Request, warned: list[str]) -> Tensor:
        """[N, C, h, w]: the pictures' most likely latents, as the autoencoder gives them: they are
        not scaled.
        """
        assert r.images is not None
        if pictures.is_latents(r.images[0], self.vae.config.latent_channels):
            found = torch.stack(r.images)
        else:
            pixels = pictures.to_tensor(r.images, r.height, r.width, "image", warned)
            found = torch.cat([self._most_likely(p[None]) for p in pixels])
            check_finite("vae: the encoder", found)
        return tile(found.to(self.device, self.dtype), r.count)

    def _most_likely(self, pixels: Tensor) -> Tensor:
        encoded: Any = self.vae.encode(pixels)
        found: Tensor = encoded.latents if isinstance(self.vae, AutoencoderTiny) else (
            encoded.latent_dist.mean
        )  # fmt: skip
        return found

    def _start(self, r: Request, plan: Plan, noise: NoiseSource, warned: list[str]) -> Start:
        return LatentMaker(self.vae, r, noise, self.dtype, False, warned).from_noise(plan)
