"""unCLIP from a picture: its embedding by CLIP, in the place of a prior's, makes others like it.

Ramesh et al. 2022, arXiv:2204.06125, section 3.1 (variations) and 3.2 (interpolations).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ...clip_pictures import ClipPictureConfig
from ...errors import RequestError
from ...finite import check_finite
from ...guard import inference
from ...jobs import checks
from ...jobs.output import PipelineOutput
from ...jobs.runs import Run
from ...models import CLIPVisionModelWithProjection
from ...models.base import Model
from ...schedules.config import UnCLIPConfig
from ...tokenizer import ClipTokenizer
from ..arguments import check
from ..clip_features import encoder_pixels
from ..unprompted import CALLBACK_TENSORS
from .base import UnCLIPBase, VariationDefaults
from .course import DECODER, FIRST, LAST
from .request import Texts, UnCLIPRequest


class UnCLIPImageVariationPipeline(UnCLIPBase):
    """Pictures like a picture with an unCLIP checkpoint (Karlo's layout); see `__call__`."""

    defaults_class: ClassVar[type[Any]] = VariationDefaults
    takes_prompt: ClassVar[bool] = False
    names: ClassVar[tuple[str, ...]] = (DECODER, FIRST, LAST)

    def __init__(
        self,
        models: dict[str, Model],
        tokenizer: ClipTokenizer,
        feature_extractor: ClipPictureConfig,
        schedules: dict[str, UnCLIPConfig],
        checkpoint: Any,
        source: str,
        defaults: Any,
    ):
        super().__init__(models, tokenizer, schedules, checkpoint, source, defaults)
        self.feature_extractor = feature_extractor

    @property
    def image_encoder(self) -> CLIPVisionModelWithProjection:
        return cast(CLIPVisionModelWithProjection, self.models["image_encoder"])

    @property
    def components(self) -> dict[str, Any]:
        return {**super().components, "feature_extractor": self.feature_extractor}

    @inference
    def __call__(
        self,
        image: Any = None,
        num_images_per_prompt: int = 1,
        decoder_num_inference_steps: int | None = None,
        super_res_num_inference_steps: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        decoder_latents: Tensor | None = None,
        super_res_latents: Tensor | None = None,
        image_embeddings: Tensor | None = None,
        decoder_guidance_scale: float | Sequence[float] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        clip_model: Any = None,
        clip_guidance_scale: float | None = None,
        clip_prompt: str | Sequence[str] | None = None,
        clip_image: Any = None,
        classifier: Any = None,
        classifier_scale: float | None = None,
        class_labels: Any = None,
        seed: int | Sequence[int] | None = None,
        upscaler: Any = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = CALLBACK_TENSORS,
        progress: bool | None = None,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """Pictures like one picture or a list of them; names and order are those of diffusers'
        UnCLIPImageVariationPipeline.

        Args:
            image: a PIL picture or an array in 0..1, or B of them in a list; or a tensor [B, 3, S,
                S] as the image encoder takes it (normalised). None with image_embeddings.
            num_images_per_prompt: pictures of each, which follow each other.
            decoder_num_inference_steps, super_res_num_inference_steps: at least 2; 25 and 7 unless
                told.
            generator: one per picture, or one from which the batch is drawn as diffusers does.
            decoder_latents, super_res_latents: [N, 3, h, w] and [N, 3, height, width] standard
                normal noise in place of drawn.
            image_embeddings: [B, D] in place of the pictures; see `embed` and `interpolate`.
            decoder_guidance_scale: for all (8 unless told), or one per picture; 1 or less leaves
                guidance out.
            output_type, return_dict, seed, upscaler, callback_on_step_end,
                callback_on_step_end_tensor_inputs, progress, timeout, run: as of UnCLIPPipeline.
            guidance_start, guidance_end: shares of the decoder's steps between which that holds.
            clip_model, clip_guidance_scale, clip_prompt, clip_image, classifier, classifier_scale,
                class_labels: as of UnCLIPPipeline, with clip_prompt or clip_image.

        With seeds, or a generator per picture, a picture does not depend on the others in the
        call. Raises RequestError that names the argument.
        """
        output: PipelineOutput = self._call(locals())
        return output

    @inference
    def embed(self, image: Any) -> Tensor:
        """CLIP's embeddings of pictures, [B, D].

        Args:
            image: a picture or B of them, as `__call__` takes them.
        """
        with self._runs.begin(Run(), self.device):
            found = self._embedded(self._pixel_values(image))
            self._trim()
        return found

    @inference
    def interpolate(self, image: Any, steps: int = 5) -> Tensor:
        """[steps, D], embeddings on the great circle from one picture's to another's, both
        included, for `image_embeddings`.

        Args:
            image: two pictures as `__call__` takes them, or their embeddings [2, D].
            steps: how many, the ends among them.
        """
        count = checks.integer("steps", steps, 2, checks.MAX_PICTURES)
        ends = image if isinstance(image, Tensor) and image.dim() == 2 else self.embed(image)
        checks.check_latents(ends, (2, self.width), "image")
        shares = torch.arange(count, dtype=torch.float64) / (count - 1)
        return slerp(ends[0], ends[1], shares).to(self.device, self.dtype)

    # --- arguments --------------------------------------------------------------------------------

    def _checked(self, arguments: dict[str, Any]) -> UnCLIPRequest:
        a = arguments
        image, given = a["image"], a["image_embeddings"]
        if (image is None) == (given is None):
            both = "neither" if given is None else "both"
            raise RequestError(f"image: expected it or image_embeddings, given {both}")
        if given is None:
            given = self._pixel_values(image)
        else:
            rows = len(given) if isinstance(given, Tensor) and given.dim() == 2 else 1
            checks.check_latents(given, (max(1, rows), self.width), "image_embeddings")
        r = self._request(a, len(given), ("decoder", "super_res"))
        times = check("num_images_per_prompt", a["num_images_per_prompt"])
        r.embeddings, r.per_embedding = given, times
        return r

    def _pixel_values(self, image: Any) -> Tensor:
        """[B, 3, S, S], what the image encoder takes."""
        return encoder_pixels(image, self.image_encoder, self.feature_extractor)

    # --- the run ----------------------------------------------------------------------------------

    def _embedded(self, pixels: Tensor) -> Tensor:
        found = [self.image_encoder(p[None], return_dict=False)[0] for p in pixels]
        embeddings = torch.cat(found)
        check_finite(f"{self.source}: image_encoder", embeddings)
        return embeddings

    def _prepared(self, r: UnCLIPRequest) -> UnCLIPRequest:
        given = cast(Tensor, r.embeddings)
        embeddings = self._embedded(given) if given.dim() == 4 else given
        embeddings = embeddings.to(self.device, self.dtype)
        return replace(r, embeddings=embeddings.repeat_interleave(r.per_embedding, dim=0))

    def _texts(self, r: UnCLIPRequest, warned: list[str]) -> Texts:
        return self._encode([""] * r.count, warned)


def slerp(a: Tensor, b: Tensor, shares: Tensor) -> Tensor:
    """[S, D], for each share the point so far on the great circle from a to b [D], computed in
    float64; of (nearly) parallel ones on the line between them (Shoemake 1985).
    """
    a, b = a.double().cpu(), b.double().cpu()
    cosine = float((a / a.norm()) @ (b / b.norm()))
    t = shares[:, None]
    if abs(cosine) > 0.9995:
        return (1 - t) * a + t * b
    angle = torch.tensor(cosine, dtype=torch.float64).arccos()
    return ((1 - t) * angle).sin() / angle.sin() * a + (t * angle).sin() / angle.sin() * b
