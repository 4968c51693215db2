"""Stable Diffusion XL and its refiner.  Podell et al. 2023, arXiv:2307.01952."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import RequestError
from ..guard import inference
from ..weights.text import show
from . import request as checks
from .arguments import Arguments, Defaults, bounded
from .diffusers_names.parts import XLPartNames
from .keywords import refuse_others
from .output import PipelineOutput
from .request import Request
from .runs import Run
from .stable_diffusion import Conditions, StableDiffusionPipeline
from .text import encode

AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5


@dataclass(frozen=True)
class XLDefaults(Defaults):
    guidance_scale: float = bounded(5.0, 0, 1000)
    strength: float = bounded(0.3, 0, 1)
    inpaint_strength: float = bounded(0.9999, 0, 1)
    inpaint_guidance_scale: float | None = bounded(7.5, 0, 1000)


@dataclass
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


@dataclass(frozen=True)
class XLArguments(Arguments):
    """As Arguments, with SDXL's second prompts and sizes."""

    def request(
        self, *, prompt_2=None, negative_prompt_2=None, original_size=None,
        crops_coords_top_left=(0, 0), target_size=None, negative_original_size=None,
        negative_crops_coords_top_left=(0, 0), negative_target_size=None,
        aesthetic_score=None, negative_aesthetic_score=None, **arguments,
    ) -> XLRequest:  # fmt: skip
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
        many = len(r.prompts)
        if prompt_2 is not None:
            r.prompts_2 = checks.texts("prompt_2", prompt_2, many)
        if negative_prompt_2 is not None:
            r.negatives_2 = checks.texts("negative_prompt_2", negative_prompt_2, many)
        if r.negatives_2 is not None and r.negatives is None and zeros_for_empty(self.options):
            raise RequestError("negative_prompt_2: expected a negative_prompt with it, given none")
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
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        prompt_2: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        negative_prompt_2: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        num_images_per_prompt: int = 1,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        scheduler: str | None = None,
        image: Any = None,
        strength: float | None = None,
        mask_image: Any = None,
        eta: float = 0.0,
        clip_skip: int | None = None,
        original_size: Sequence[int] | None = None,
        crops_coords_top_left: Sequence[int] = (0, 0),
        target_size: Sequence[int] | None = None,
        negative_original_size: Sequence[int] | None = None,
        negative_crops_coords_top_left: Sequence[int] = (0, 0),
        negative_target_size: Sequence[int] | None = None,
        aesthetic_score: float | None = None,
        negative_aesthetic_score: float | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        progress: bool | None = None,
        return_dict: bool = True,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """As StableDiffusionPipeline.__call__, and:

        prompt_2, negative_prompt_2: for the second text encoder, which gets the first's unless
        told. original_size, crops_coords_top_left, target_size: (height, width) pairs that the
        model was trained with; the sizes are the picture's unless told. negative_*: the same for
        the negative prompt. aesthetic_score, negative_aesthetic_score: told to a refiner (6 and
        2.5), which needs an image; other models refuse them.
        Without a negative prompt its embedding is zero where the checkpoint says so
        (force_zeros_for_empty_prompt).
        """
        refuse_others(others, self.__call__)
        left_out = ("self", "others", "progress")
        arguments = {k: v for k, v in locals().items() if k not in (*left_out, "left_out")}
        return self._generate(self._arguments().request(**arguments), progress)

    @property
    def _scored(self) -> bool:
        """Whether the U-Net, a refiner's, is told an aesthetic score in place of a target size."""
        return self.parts.options.get("requires_aesthetics_score", False)

    # --- conditions -------------------------------------------------------------------------------

    def _conditions(self, r: XLRequest, warned: list[str]) -> Conditions:
        skip = 0 if r.clip_skip is None else r.clip_skip
        text, pooled = self._encode_both(r.prompts, r.prompts_2 or r.prompts, -(skip + 2), warned)
        rows = [(text, pooled)]
        sizes, negative_sizes = self._sizes(r)
        ids = [sizes]
        if self._guided(r):
            if r.negatives is None and zeros_for_empty(self.parts.options):
                rows.insert(0, (torch.zeros_like(text), torch.zeros_like(pooled)))
            else:
                first = r.negatives or [""] * len(r.prompts)
                rows.insert(0, self._encode_both(first, r.negatives_2 or first, -2, warned))
            ids.insert(0, negative_sizes)
        text, pooled = (
            torch.cat([row[i].repeat_interleave(r.per_prompt, dim=0) for row in rows])
            for i in (0, 1)
        )
        time_ids = torch.tensor(ids, dtype=text.dtype, device=text.device)
        time_ids = time_ids.repeat_interleave(r.count, dim=0)
        added = {"text_embeds": pooled, "time_ids": time_ids}
        return Conditions(text, added, self._guidance(r))

    def _encode_both(self, prompts, prompts_2, layer: int, warned: list[str]):
        """([B, L, C1 + C2] hidden states side by side, [B, P] the second encoder's pooled text)."""
        parts, hidden, pooled = self.parts, [], None
        own = [prompts, prompts_2][-len(parts.encoders) :]  # a refiner has the second alone
        for tokenizer, encoder, texts in zip(parts.tokenizers, parts.encoders, own, strict=True):
            states, pooled = encode(tokenizer, encoder, texts, layer, warned)
            hidden.append(states)
        return torch.cat(hidden, dim=-1), pooled

    def _sizes(self, r: XLRequest) -> tuple[list[float], list[float]]:
        """The numbers that the U-Net is told for the prompt and for the negative prompt.

        As diffusers has it: text-to-image uses the negative sizes where both are given, and with
        them their own crop; image-to-image and inpainting one by one, with the prompt's crop.
        """
        if self._scored:
            first = r.negative_original or r.original
            return [*r.original, *r.crop, r.score], [*first, *r.negative_crop, r.negative_score]
        sizes = [*r.original, *r.crop, *r.target]
        if r.images is not None:
            first, last = r.negative_original or r.original, r.negative_target or r.target
            return sizes, [*first, *r.crop, *last]
        if r.negative_original and r.negative_target:
            return sizes, [*r.negative_original, *r.negative_crop, *r.negative_target]
        return sizes, sizes
