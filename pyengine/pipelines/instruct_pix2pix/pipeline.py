"""InstructPix2Pix: a picture changed as a text says.  Brooks et al. 2023, arXiv:2211.09800."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...diffusion.conditions import Conditions
from ...diffusion.request import Request
from ...guard import inference
from ...jobs.output import PipelineOutput
from ...jobs.runs import Run
from ..defaults import bounded
from ..loras import LoraArgument
from ..stable_diffusion.defaults import Defaults
from ..stable_diffusion.embeddings import joined
from .instructed import Instructed


@dataclass(frozen=True)
class InstructDefaults(Defaults):
    """image_guidance_scale: how much the picture that is changed guides."""

    num_inference_steps: int = bounded(100, 1, 1000)
    image_guidance_scale: float = bounded(1.5, 0, 1000)


class StableDiffusionInstructPix2PixPipeline(Instructed):
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
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
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
