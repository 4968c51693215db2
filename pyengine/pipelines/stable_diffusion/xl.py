"""Stable Diffusion XL and its refiner.  Podell et al. 2023, arXiv:2307.01952."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ...diffusion.conditions import Conditions
from ...diffusion.request import Request
from ...errors import RequestError
from ...guard import inference
from ...jobs import checks
from ...jobs.output import PipelineOutput
from ...jobs.runs import Run
from ...weights.text import show
from ..defaults import bounded
from ..diffusers_names.parts import XLPartNames
from ..loras import LoraArgument, Uses
from ..prompt_weights import Weighted
from ..text import encode
from .arguments import Arguments
from .defaults import Defaults
from .embeddings import Embeds, Texts, Widths, joined
from .parts import ENCODERS
from .pipeline import StableDiffusionPipeline

AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5


@dataclass(frozen=True)
class XLDefaults(Defaults):
    guidance_scale: float = 5.0
    strength: float = 0.3
    inpaint_strength: float = bounded(0.9999, 0, 1)
    inpaint_guidance_scale: float | None = bounded(7.5, 0, 1000)
    control_strength: float | None = bounded(0.8, 0, 1)


@dataclass(kw_only=True)
class XLRequest(Request):
    """Sizes, (height, width), that SDXL is told. original: of the training picture; crop: where
    its corner was cut; target: what was cut out; negative_*: for the negative prompt, None: as the
    other's.
    """

    original: tuple[int, int] = (0, 0)
    crop: tuple[int, int] = (0, 0)
    target: tuple[int, int] = (0, 0)
    negative_original: tuple[int, int] | None = None
    negative_crop: tuple[int, int] = (0, 0)
    negative_target: tuple[int, int] | None = None
    score: float = AESTHETIC_SCORE
    negative_score: float = NEGATIVE_AESTHETIC_SCORE


def zeros_for_empty(options: dict[str, bool]) -> bool:
    """Whether a negative prompt that was not given is embedded as zeros."""
    return options.get("force_zeros_for_empty_prompt", True)


def check_negatives(texts: Texts, options: dict[str, bool]) -> None:
    """Raises RequestError for what zeros in place of negative prompts would leave out."""
    if texts.negatives is not None or texts.given.negative is not None:
        return
    if not zeros_for_empty(options):
        return
    if texts.negatives_2 is not None:
        raise RequestError("negative_prompt_2: expected a negative_prompt with it, given none")
    if texts.given.negative_pooled is not None:
        raise RequestError(
            "negative_pooled_prompt_embeds: expected negative_prompt_embeds or a"
            " negative_prompt with them, given none"
        )


@dataclass(frozen=True)
class XLArguments(Arguments):
    """As Arguments, with SDXL's second prompts and sizes."""

    def request(
        self,
        *,
        original_size: Any = None,
        crops_coords_top_left: Any = (0, 0),
        target_size: Any = None,
        negative_original_size: Any = None,
        negative_crops_coords_top_left: Any = (0, 0),
        negative_target_size: Any = None,
        aesthetic_score: Any = None,
        negative_aesthetic_score: Any = None,
        **arguments: Any,
    ) -> XLRequest:
        base = super().request(**arguments)
        if self.scored and base.images is None:
            raise RequestError("image: this model is a refiner: expected an image, given none")
        size = (base.height, base.width)
        pair = checks.size_pair

        def optional(field: str, value: Any, default: Any) -> Any:
            return default if value is None else pair(field, value, 1)

        r = XLRequest(
            **vars(base),
            original=optional("original_size", original_size, size),
            crop=pair("crops_coords_top_left", crops_coords_top_left),
            target=optional("target_size", target_size, size),
            negative_original=optional("negative_original_size", negative_original_size, None),
            negative_crop=pair("negative_crops_coords_top_left", negative_crops_coords_top_left),
            negative_target=optional("negative_target_size", negative_target_size, None),
            score=self._score("aesthetic_score", aesthetic_score, AESTHETIC_SCORE),
            negative_score=self._score(
                "negative_aesthetic_score", negative_aesthetic_score, NEGATIVE_AESTHETIC_SCORE
            ),
        )
        check_negatives(r.texts, self.options)
        return r

    @property
    def scored(self) -> bool:
        """Whether the model is told aesthetic scores in place of the target size, as refiners."""
        return self.options.get("requires_aesthetics_score", False)

    def _score(self, field: str, value: Any, default: float) -> float:
        if value is None:
            return default
        if not self.scored:
            raise RequestError(
                f"{field}: only a refiner is told one (requires_aesthetics_score in"
                f" model_index.json), expected none, given {show(value)}"
            )
        return checks.real(field, value, 0, 100)


class StableDiffusionXLPipeline(XLPartNames, StableDiffusionPipeline):
    """Text to pictures with a Stable Diffusion XL checkpoint; see `__call__`."""

    stable_diffusion = False
    defaults_class = XLDefaults
    arguments_class = XLArguments

    @inference
    def __call__(  # type: ignore[override]  # diffusers' order of arguments, which is another
        self,
        prompt: str | Sequence[str] | None = None,
        prompt_2: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        sigmas: Sequence[float] | None = None,
        denoising_end: float | None = None,
        guidance_scale: float | Sequence[float] | None = None,
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
        ip_adapter_image: Any = None,
        ip_adapter_image_embeds: Any = None,
        output_type: str = "pil",
        return_dict: bool = True,
        cross_attention_kwargs: Mapping[str, Any] | None = None,
        guidance_rescale: float | None = None,
        original_size: Sequence[int] | None = None,
        crops_coords_top_left: Sequence[int] = (0, 0),
        target_size: Sequence[int] | None = None,
        negative_original_size: Sequence[int] | None = None,
        negative_crops_coords_top_left: Sequence[int] = (0, 0),
        negative_target_size: Sequence[int] | None = None,
        clip_skip: int | None = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        *,
        seed: int | Sequence[int] | None = None,
        lora: LoraArgument = None,
        prompt_weighting: str | None = None,
        upscaler: Any = None,
        scheduler: str | None = None,
        timestep_spacing: str | None = None,
        original_inference_steps: int | None = None,
        image: Any = None,
        strength: float | None = None,
        mask_image: Any = None,
        masked_image_latents: Tensor | None = None,
        padding_mask_crop: int | None = None,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        effort: str = "full",
        cache_interval: int | None = None,
        cache_branch_id: int | None = None,
        guidance_method: str = "cfg",
        negative_scale: float | None = None,
        control_image: Any = None,
        controlnet_conditioning_scale: Any = None,
        control_guidance_start: Any = 0.0,
        control_guidance_end: Any = 1.0,
        guess_mode: Any = False,
        control_mode: Any = None,
        ip_adapter_scale: Any = None,
        adapter_conditioning_scale: Any = 1.0,
        adapter_conditioning_factor: Any = 1.0,
        clip_model: Any = None,
        clip_guidance_scale: float | None = None,
        clip_prompt: str | Sequence[str] | None = None,
        clip_image: Any = None,
        classifier: Any = None,
        classifier_scale: float | None = None,
        class_labels: Any = None,
        denoising_start: float | None = None,
        aesthetic_score: float | None = None,
        negative_aesthetic_score: float | None = None,
        progress: bool | None = None,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """As StableDiffusionPipeline.__call__, in the order of diffusers'
        StableDiffusionXLPipeline, and:

        Args:
            prompt_2, negative_prompt_2: for the second text encoder, which gets the first's unless
                told. Without a negative prompt its embedding is zero where the checkpoint says so
                (force_zeros_for_empty_prompt).
            denoising_end: 0 to 1, the share of the noise schedule after which the run ends; the
                latents (output_type="latent") are then noisy.
            latents: with an image and no mask, noisy latents to begin with in the image's place.
            pooled_prompt_embeds, negative_pooled_prompt_embeds: [B, P], which prompt_embeds and
                negative_prompt_embeds need beside them.
            original_size, crops_coords_top_left, target_size: (height, width) pairs that the model
                was trained with; the sizes are the picture's unless told.
            negative_original_size, negative_crops_coords_top_left, negative_target_size: the same
                for the negative prompt; the prompt's unless told.
            callback_on_step_end_tensor_inputs: also add_text_embeds and add_time_ids.
            denoising_start: the share at which a run goes on with such latents, given as `image`;
                strength is not looked at.
            aesthetic_score, negative_aesthetic_score: told to a refiner (6 and 2.5), which needs an
                image; other models refuse them.
        """
        output: PipelineOutput = self._call(locals())
        return output

    def _widths(self) -> Widths:
        projection = self.parts.encoders[-1].config.projection_dim
        return Widths(super()._widths().text, projection)

    @property
    def _scored(self) -> bool:
        """Whether the U-Net, a refiner's, is told an aesthetic score in place of a target size."""
        return self.parts.options.get("requires_aesthetics_score", False)

    # --- conditions -------------------------------------------------------------------------------

    @inference
    def encode_prompt(  # type: ignore[override]
        self,
        prompt: str | Sequence[str] | None = None,
        prompt_2: str | Sequence[str] | None = None,
        device: torch.device | str | None = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | Sequence[str] | None = None,
        negative_prompt_2: str | Sequence[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        lora_scale: float | None = None,
        clip_skip: int | None = None,
        *,
        prompt_weighting: str | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """What the text encoders make of prompts, as diffusers' pipeline has it.

        A row per picture, those of a prompt together. LoRAs that set_adapters chose count.

        Args:
            prompt: one text or B of them.
            prompt_2: for the second text encoder, which gets prompt's unless told.
            device: where the embeddings are to be; None: where the model is.
            num_images_per_prompt: rows of each prompt, which follow each other.
            do_classifier_free_guidance: False leaves the negative ones out.
            negative_prompt: one for all, or one per prompt.
            negative_prompt_2: likewise, for the second text encoder.
            prompt_embeds, negative_prompt_embeds: [B, L, C] in place of the texts: they are
                repeated and converted.
            pooled_prompt_embeds, negative_pooled_prompt_embeds: [B, P], beside these.
            lora_scale: what the weights of LoRAs that set_adapters chose are multiplied by.
            clip_skip: text encoder layers to leave out.
            prompt_weighting: "a1111" or "compel", as in a call; all rows are as long as the
                longest.

        Returns:
            (prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds,
            negative_pooled_prompt_embeds), [N, L, C] and [N, P]; the negative ones None without
            guidance.
        """
        texts = self._widths().read(
            prompt=prompt,
            prompt_2=prompt_2,
            negative_prompt=negative_prompt,
            negative_prompt_2=negative_prompt_2,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
        )
        check_negatives(texts, self.parts.options)
        e = self._encode_now(
            texts,
            device,
            num_images_per_prompt,
            do_classifier_free_guidance,
            clip_skip,
            lora_scale,
            prompt_weighting,
        )
        assert e.text is not None
        assert e.pooled is not None
        return e.text, e.negative, e.pooled, e.negative_pooled

    def _embeds(
        self, texts: Texts, guided: bool, clip_skip: int | None, warned: list[str]
    ) -> Embeds:
        given = texts.given
        text, pooled = given.text, given.pooled
        if text is None:
            assert texts.prompts is not None
            second = texts.prompts_2 or texts.prompts
            layer = -((clip_skip or 0) + 2)
            text, own = self._encode_both(
                texts.prompts, second, layer, warned, loras=texts.loras, weighted=texts.weighted
            )
            pooled = own if pooled is None else pooled
        if not guided:
            return Embeds(text, pooled=pooled)
        negative, negative_pooled = given.negative, given.negative_pooled
        if negative is None and texts.negatives is None and zeros_for_empty(self.parts.options):
            assert pooled is not None
            negative, negative_pooled = torch.zeros_like(text), torch.zeros_like(pooled)
        elif negative is None:
            first = texts.negatives or [""] * texts.batch
            length = None if given.text is None else text.shape[1]
            second = texts.negatives_2 or first
            negative, own = self._encode_both(
                first, second, -2, warned, length, texts.loras, texts.weighted
            )
            negative_pooled = own if negative_pooled is None else negative_pooled
        return Embeds(text, negative, pooled, negative_pooled)

    def _conditions(self, r: Request, warned: list[str]) -> Conditions:
        assert isinstance(r, XLRequest)
        guided = self._guides(r.scales, r.method)
        e, empty = self._told(r, warned)
        text = joined("prompt_embeds", e.negative, e.text)
        sizes, negative_sizes = self._sizes(r)
        ids = [negative_sizes] * (len(r.method.names(guided)) - 1) + [sizes]
        time_ids = torch.tensor(ids, dtype=text.dtype, device=text.device)
        time_ids = time_ids.repeat_interleave(r.count, dim=0)
        pooled = joined("pooled_prompt_embeds", e.negative_pooled, e.pooled)
        if empty is not None:
            text = torch.cat([cast(Tensor, empty.negative), text])
            pooled = torch.cat([cast(Tensor, empty.negative_pooled), pooled])
        added = {"text_embeds": pooled, "time_ids": time_ids}
        return Conditions(text, added, self._guidance(r), text_lengths=self._text_lengths(r))

    def _encode_both(
        self,
        prompts: list[str],
        prompts_2: list[str],
        layer: int,
        warned: list[str],
        length: int | None = None,
        loras: Sequence[Uses] = (),
        weighted: Weighted | None = None,
    ) -> tuple[Tensor, Tensor]:
        """([B, L, C1 + C2] hidden states side by side, [B, P] the second encoder's pooled text)."""
        parts, hidden, pooled = self.parts, [], None
        first = -len(parts.encoders)  # a refiner has the second alone
        own, names = [prompts, prompts_2][first:], ENCODERS[first:]
        each = zip(parts.tokenizers, parts.encoders, own, names, strict=True)
        for tokenizer, encoder, texts, name in each:
            adapters = self._loras.rows(name, loras)
            states, pooled = encode(
                tokenizer, encoder, texts, layer, warned, length, adapters, weighted
            )
            hidden.append(states)
        assert pooled is not None
        return torch.cat(hidden, dim=-1), pooled

    def _sizes(self, r: XLRequest) -> tuple[list[float], list[float]]:
        """The numbers that the U-Net is told for the prompt and for the negative prompt.

        As diffusers has it: text-to-image uses the negative sizes where both are given, and with
        them their own crop; image-to-image and inpainting one by one, with the prompt's crop.
        """
        if self._scored:
            first = r.negative_original or r.original
            return [*r.original, *r.crop, r.score], [*first, *r.negative_crop, r.negative_score]
        sizes: list[float] = [*r.original, *r.crop, *r.target]
        negative: list[float] = sizes
        if r.images is not None:
            first, last = r.negative_original or r.original, r.negative_target or r.target
            negative = [*first, *r.crop, *last]
        elif r.negative_original and r.negative_target:
            negative = [*r.negative_original, *r.negative_crop, *r.negative_target]
        return sizes, negative
