"""Stable Diffusion whose U-Net reads CLIP's embedding of a picture where others read a text.

The picture's projected embedding is one token; without guidance's it is zeros (diffusers'
StableDiffusionImageVariationPipeline, for Pinkney's fine-tuned models).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from ...clip_pictures import ClipPictureConfig
from ...diffusion.request import Request
from ...errors import RequestError
from ...finite import check_finite
from ...guard import inference
from ...jobs.output import PipelineOutput
from ...jobs.runs import Run
from ...models import CLIPVisionModelWithProjection
from ..clip_features import encoder_pixels
from ..loras import LoraArgument
from ..stable_diffusion.embeddings import Embeds, Texts, Widths
from ..stable_diffusion.pipeline import StableDiffusionPipeline
from ..stable_diffusion.unasked import unasked
from .parts import VariationParts


@dataclass(kw_only=True)
class VariationRequest(Request):
    """pixels: [B, 3, S, S], what the image encoder reads of each picture."""

    pixels: Tensor | None = None


class StableDiffusionImageVariationPipeline(StableDiffusionPipeline):
    """Pictures like a picture; see `__call__`. It reads no texts: there is no prompt."""

    takes_prompt = False
    parts: VariationParts
    part_names = ("vae", "image_encoder", "unet", "feature_extractor")
    absent_names = ("safety_checker",)

    @inference
    def __call__(  # type: ignore[override]  # diffusers' order of arguments, which is another
        self,
        image: Any = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        num_images_per_prompt: int = 1,
        eta: float = 0.0,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        cross_attention_kwargs: Mapping[str, Any] | None = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        seed: int | Sequence[int] | None = None,
        lora: LoraArgument = None,
        upscaler: Any = None,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        scheduler: str | None = None,
        progress: bool | None = None,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """Names and order are those of diffusers' StableDiffusionImageVariationPipeline; what is
        not told here is as in StableDiffusionPipeline.__call__.

        Args:
            image: a picture, or a list of B of them, of any sizes; or a tensor [B, 3, S, S] as the
                image encoder takes it (normalised), as in diffusers.
            height, width: of the result, the model's own unless told.
            num_images_per_prompt: pictures of each, which follow each other.
        """
        made: PipelineOutput = self._call(locals())
        return made

    @property
    def image_encoder(self) -> CLIPVisionModelWithProjection:
        """CLIP's tower for pictures, with its projection."""
        return self.parts.image_encoder

    @image_encoder.setter
    def image_encoder(self, value: Any) -> None:
        raise RequestError(
            "image_encoder: expected that of the checkpoint; load another with from_pretrained"
        )

    @property
    def feature_extractor(self) -> ClipPictureConfig:  # type: ignore[override]  # elsewhere None
        """What pictures go through before the image encoder."""
        return self.parts.feature_extractor

    @inference
    def embed(self, image: Any) -> Tensor:
        """CLIP's embeddings of pictures, [B, P].

        Args:
            image: a picture or B of them, as `__call__` takes them.
        """
        pixels = encoder_pixels(image, self.image_encoder, self.feature_extractor)
        with self._runs.begin(Run(), self.device):
            found = self._embedded(pixels)
            self._trim()
        return found

    def encode_prompt(self, *_: Any, **__: Any) -> NoReturn:
        """Raises RequestError: this model reads no texts."""
        raise RequestError(
            f"encode_prompt: a {type(self).__name__} reads a picture and no text;"
            " embed(image) gives what it reads"
        )

    def load_textual_inversion(self, *_: Any, **__: Any) -> NoReturn:
        """Raises RequestError: this model reads no texts."""
        raise RequestError(
            f"load_textual_inversion: a {type(self).__name__} reads a picture and no text"
        )

    def load_ip_adapter(self, *_: Any, **__: Any) -> NoReturn:
        """Raises RequestError: the picture is what this model reads."""
        raise RequestError(f"load_ip_adapter: a {type(self).__name__} reads a picture already")

    # --- the run ----------------------------------------------------------------------------------

    def _widths(self) -> Widths:
        return Widths(self.image_encoder.config.projection_dim)

    def _checked(self, arguments: dict[str, Any]) -> VariationRequest:
        image = arguments.pop("image")
        if image is None:
            raise RequestError(f"image: a {type(self).__name__} needs one, given none")
        pixels = encoder_pixels(image, self.image_encoder, self.feature_extractor)
        # In the place of what the pictures are embedded as once the call has its turn.
        texts = {"prompt_embeds": torch.zeros(len(pixels), 1, self._widths().text)}
        r = super()._checked({**unasked(), **arguments, **texts})
        return VariationRequest(**vars(r), pixels=pixels)

    def _weighed(self, texts: Texts, syntax: Any) -> Texts:
        return texts

    def _text_lengths(self, r: Request) -> tuple[int, ...]:
        return ()

    def _embedded(self, pixels: Tensor) -> Tensor:
        """[B, P]; one by one, so that a picture's bits do not depend on the others."""
        found = torch.cat([self.image_encoder(p[None], return_dict=False)[0] for p in pixels])
        check_finite(f"{self.source}: image_encoder", found)
        return found

    def _told(self, r: Request, warned: list[str]) -> tuple[Embeds, Embeds | None]:
        assert isinstance(r, VariationRequest)
        assert r.pixels is not None
        text = self._embedded(r.pixels)[:, None].to(self.device, self.dtype)
        guided = self._guides(r.scales, r.method)
        found = Embeds(text, torch.zeros_like(text) if guided else None).repeated(r.per_prompt)
        return found, found if guided and r.method.three else None
