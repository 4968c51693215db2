"""InstructPix2Pix with Stable Diffusion XL."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ... import images as pictures
from ...diffusion.conditions import Conditions
from ...diffusion.request import Request
from ...guard import inference
from ...jobs.output import PipelineOutput
from ...jobs.runs import Run
from ..defaults import bounded
from ..loras import LoraArgument
from ..stable_diffusion.xl import StableDiffusionXLPipeline, XLDefaults, XLRequest
from .instructed import Instructed


@dataclass(frozen=True)
class XLInstructDefaults(XLDefaults):
    """image_guidance_scale: how much the picture that is changed guides."""

    num_inference_steps: int = bounded(100, 1, 1000)
    image_guidance_scale: float = bounded(1.5, 0, 1000)


class StableDiffusionXLInstructPix2PixPipeline(Instructed, StableDiffusionXLPipeline):
    """Pictures changed as a text says, by an InstructPix2Pix checkpoint of SDXL's; see `__call__`.

    Where model_index.json says is_cosxl_edit, the picture's latents are scaled, as in diffusers.
    """

    defaults_class = XLInstructDefaults

    @inference
    def __call__(  # type: ignore[override]  # diffusers' order of arguments, which is another
        self,
        prompt: str | Sequence[str] | None = None,
        prompt_2: str | Sequence[str] | None = None,
        image: Any = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        denoising_end: float | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        image_guidance_scale: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        negative_prompt_2: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        cross_attention_kwargs: Mapping[str, Any] | None = None,
        guidance_rescale: float | None = None,
        original_size: Sequence[int] | None = None,
        crops_coords_top_left: Sequence[int] = (0, 0),
        target_size: Sequence[int] | None = None,
        *,
        seed: int | Sequence[int] | None = None,
        lora: LoraArgument = None,
        prompt_weighting: str | None = None,
        upscaler: Any = None,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        scheduler: str | None = None,
        clip_skip: int | None = None,
        progress: bool | None = None,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """Names and order are those of diffusers' StableDiffusionXLInstructPix2PixPipeline; what is
        not told here is as in StableDiffusionXLPipeline.__call__.

        Args:
            prompt: what is to be done to the picture.
            image: the picture to change, or one for each prompt or picture, resized to height and
                width; or latents of it, not scaled.
            height, width: pixels; the checkpoint's own size unless told.
            guidance_scale, image_guidance_scale: as in StableDiffusionInstructPix2PixPipeline.
            latents: [N, C, h, w] standard normal noise in place of drawn.
        """
        made: PipelineOutput = self._call(locals())
        return made

    def _checked(self, arguments: dict[str, Any]) -> Request:
        image = arguments["image"]
        first = None if image is None else pictures.as_list(image, "image")[0]
        if first is not None and not pictures.is_latents(first, self.vae.config.latent_channels):
            for name, side in zip(("height", "width"), self.default_size, strict=True):
                arguments[name] = side if arguments[name] is None else arguments[name]
        return super()._checked(arguments)

    def _conditions(self, r: Request, warned: list[str]) -> Conditions:
        """Rows without prompt and picture first, then those with the picture, then with both."""
        assert isinstance(r, XLRequest)
        guided = self._guides(r.scales, r.method)
        e = self._embeds(r.texts, guided, r.clip_skip, warned)
        e = e.repeated(r.per_prompt).to(self.device, self.parts.encoders[-1].dtype)
        shown, text, pooled = self._image_latents(r, warned), e.text, e.pooled
        assert text is not None
        assert pooled is not None
        if self.parts.options.get("is_cosxl_edit", False):
            shown = shown * self.vae.config.scaling_factor
        if e.negative is not None and e.negative_pooled is not None:
            text = torch.cat([e.negative, e.negative, text])
            pooled = torch.cat([e.negative_pooled, e.negative_pooled, pooled])
            shown = torch.cat([torch.zeros_like(shown), shown, shown])
        sizes, _ = self._sizes(r)
        time_ids = torch.tensor([sizes], dtype=text.dtype, device=text.device)
        added = {"text_embeds": pooled, "time_ids": time_ids.repeat(len(text), 1)}
        return Conditions(text, added, extra=shown, text_lengths=self._text_lengths(r))
