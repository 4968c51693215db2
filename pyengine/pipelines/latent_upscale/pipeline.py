"""Stable Diffusion's x2 latent upscaler: latents of a large picture beside those of a small one.

The network's input, output and time are scaled as in Karras et al. 2022, arXiv:2206.00364, table 1
(diffusers' StableDiffusionLatentUpscalePipeline).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import images as pictures
from ...diffusion.conditions import Conditions
from ...diffusion.latents import LatentMaker
from ...diffusion.request import Request
from ...errors import RequestError
from ...guard import inference
from ...guidance import Method
from ...jobs import checks
from ...jobs.noise import NoiseSource
from ...jobs.output import PipelineOutput
from ...jobs.runs import Run
from ...schedules import Plan, Scheduler
from ...weights.text import show
from ..defaults import bounded
from ..stable_diffusion.arguments import Arguments
from ..stable_diffusion.defaults import Defaults
from ..stable_diffusion.embeddings import Embeds, Texts, Widths, joined
from ..stable_diffusion.pipeline import StableDiffusionPipeline
from ..stable_diffusion.unasked import unasked
from ..text import learnt_rows, tokenize

#: Ones, and as many zeros, that stand before the pooled text: of a level of noise in the small
#: picture, which is none.
LEVEL_WIDTH = 64
#: The scheduler's prediction_type: what diffusers makes of the network's output before it steps.
PREDICTION = "sample"


@dataclass(frozen=True)
class LatentUpscaleDefaults(Defaults):
    num_inference_steps: int = bounded(75, 1, 1000)
    guidance_scale: float = 9.0


@dataclass(kw_only=True)
class LatentUpscaleRequest(Request):
    """small: the pictures or latents as they were given, as many as divide the pictures drawn."""

    small: Sequence[Any] = ()


@dataclass(eq=False)
class LatentUpscaleConditions(Conditions):
    """The network is told a quarter of the logarithm of sigma in place of a timestep."""

    def told_times(self, plan: Plan) -> Sequence[float]:
        return [0.25 * math.log(b / a) for a, b in (e.level for e in plan.evaluations)]


class StableDiffusionLatentUpscalePipeline(StableDiffusionPipeline):
    """Pictures twice as large of small ones, or of their latents, and texts; see `__call__`."""

    defaults_class = LatentUpscaleDefaults

    @inference
    def __call__(  # type: ignore[override]  # diffusers' order of arguments, which is another
        self,
        prompt: str | Sequence[str] | None = None,
        image: Any = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        num_images_per_prompt: int = 1,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        seed: int | Sequence[int] | None = None,
        upscaler: Any = None,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        scheduler: str | None = None,
        progress: bool | None = None,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """Names and order are those of diffusers' StableDiffusionLatentUpscalePipeline; what is not
        told here is as in StableDiffusionPipeline.__call__.

        Args:
            prompt: what the picture shows, best what the small one was drawn from.
            image: the small picture, or one for each prompt, of one size, whose sides are shrunk to
                multiples of 32, 64 at least; or latents [N, 4, h, w], or [4, h, w], as a Stable
                Diffusion pipeline's output_type="latent" gives them, h and w multiples of 4 from 8
                on (of the published model). The result is twice as large.
            guidance_scale: 1 or less leaves guidance out; 0 the prompt, too.
            latents: [N, C, 2 h, 2 w] standard normal noise in place of drawn.
            prompt_embeds, pooled_prompt_embeds, negative_prompt_embeds,
                negative_pooled_prompt_embeds: the text encoder's last hidden states before its norm
                and the pooled text, [B, L, C] and [B, C], in place of the texts; see encode_prompt.
        """
        made: PipelineOutput = self._call(locals())
        return made

    @inference
    def encode_prompt(  # type: ignore[override]  # diffusers' arguments, which are others
        self,
        prompt: str | Sequence[str] | None = None,
        device: torch.device | str | None = None,
        do_classifier_free_guidance: bool = True,
        negative_prompt: str | Sequence[str] | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        pooled_prompt_embeds: Tensor | None = None,
        negative_pooled_prompt_embeds: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        """What the text encoder makes of prompts, as diffusers' pipeline has it.

        Args:
            prompt: one text or B of them.
            device: where the embeddings are to be; None: where the model is.
            do_classifier_free_guidance: False leaves the negative ones out.
            negative_prompt: one for all, or one per prompt.
            prompt_embeds, negative_prompt_embeds: [B, L, C] in place of the texts: they are
                repeated and converted.
            pooled_prompt_embeds, negative_pooled_prompt_embeds: [B, P], beside these.

        Returns:
            (prompt_embeds, negative_prompt_embeds, pooled_prompt_embeds,
            negative_pooled_prompt_embeds), [B, L, C] and [B, P]; the negative ones None without
            guidance.
        """
        texts = self._widths().read(
            prompt=prompt,
            negative_prompt=negative_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            pooled_prompt_embeds=pooled_prompt_embeds,
            negative_pooled_prompt_embeds=negative_pooled_prompt_embeds,
        )
        e = self._encode_now(texts, device, 1, do_classifier_free_guidance, None)
        assert e.text is not None
        assert e.pooled is not None
        return e.text, e.negative, e.pooled, e.negative_pooled

    def load_lora(self, *_: Any, **__: Any) -> NoReturn:
        """Raises RequestError: LoRAs are not made for this U-Net."""
        raise RequestError(
            f"load_lora: a {type(self).__name__} takes none: its U-Net has other"
            " layers than those that LoRAs are made for"
        )

    load_lora_weights = load_lora

    def load_ip_adapter(self, *_: Any, **__: Any) -> NoReturn:
        """Raises RequestError: IP-Adapters are not made for this U-Net."""
        raise RequestError(
            f"load_ip_adapter: a {type(self).__name__} takes none: its U-Net has"
            " other attentions than IP-Adapters are made for"
        )

    # --- arguments --------------------------------------------------------------------------------

    def _widths(self) -> Widths:
        width = super()._widths().text
        return Widths(width, width)

    def _arguments(self) -> Arguments:
        return replace(super()._arguments(), distilled=False)

    def _guides(self, scales: Sequence[float], method: Method) -> bool:
        return any(map(method.guides, scales))

    def _checked(self, arguments: dict[str, Any]) -> LatentUpscaleRequest:
        image = arguments.pop("image")
        if image is None:
            raise RequestError(f"image: a {type(self).__name__} needs one, given none")
        items = pictures.as_list(image, "image")
        height, width = self._size(items)
        size = {"height": height, "width": width}
        r = super()._checked({**unasked(), **arguments, **size})
        if r.count % len(items):
            raise checks.refuse(
                "image", f"a number of them that divides {r.count} pictures", len(items)
            )
        return LatentUpscaleRequest(**vars(r), small=items)

    def _size(self, items: Sequence[Any]) -> tuple[int, int]:
        """(height, width) of the result."""
        c, channels = self.unet.config, self.vae.config.latent_channels
        factor = self.vae.config.downscale
        given = {pictures.is_latents(item, channels) for item in items}
        sizes = {
            tuple(i.shape[1:]) if pictures.is_latents(i, channels) else pictures.size_of(i)
            for i in items
        }
        if len(given) > 1 or len(sizes) > 1:
            raise RequestError(
                "image: expected pictures, or latents, of one size, given "
                + ", ".join(f"{h}x{w}" for h, w in sorted(sizes))
            )
        sides, unit = next(iter(sizes)), c.divisor // 2 or 1
        if given == {True}:
            if min(sides) < c.divisor or any(side % unit for side in sides):
                raise checks.refuse(
                    "image",
                    f"latents whose sides are multiples of {unit}, from {c.divisor} on",
                    "x".join(map(str, sides)),
                )
        else:
            sides = tuple(side // (unit * factor) * unit for side in sides)
            if min(sides) < c.divisor:
                least = c.divisor * factor
                raise checks.refuse("image", f"at least {least}x{least} pixels", sizes.pop())
        height, width = (2 * side * factor for side in sides)
        return height, width

    # --- the run ----------------------------------------------------------------------------------

    def _plan(self, r: Request, scheduler: Scheduler) -> Plan:
        """The network's output is -v: see LatentUpscalerUNet.evaluate."""
        found = getattr(scheduler.config, "prediction_type", None)
        if found != PREDICTION:
            raise RequestError(
                f"scheduler: prediction_type: expected {show(PREDICTION)}, which"
                f" this model was made with, given {show(found)}"
            )
        config: Any = scheduler.config
        return super()._plan(
            r, replace(scheduler, config=replace(config, prediction_type="v_prediction"))
        )

    def _embeds(
        self, texts: Texts, guided: bool, clip_skip: int | None, warned: list[str]
    ) -> Embeds:
        given = texts.given
        text, pooled = given.text, given.pooled
        if text is None or pooled is None:
            text, pooled = self._read(texts.prompts or [], warned)
        if not guided:
            return Embeds(text, pooled=pooled)
        negative, negative_pooled = given.negative, given.negative_pooled
        if negative is None or negative_pooled is None:
            negative, negative_pooled = self._read(texts.negatives or [""] * texts.batch, warned)
        return Embeds(text, negative, pooled, negative_pooled)

    def _read(self, prompts: Sequence[str], warned: list[str]) -> tuple[Tensor, Tensor]:
        """([N, L, C] the last hidden states before the norm, [N, C] pooled texts)."""
        tokenizer, encoder = self.parts.tokenizers[0], self.parts.encoders[0]
        ids = tokenize(tokenizer, encoder, prompts, warned)
        out: Any = encoder(ids, output_hidden_states=True, learnt=learnt_rows(tokenizer, encoder))
        return out.hidden_states[-1], out.pooler_output

    def _conditions(self, r: Request, warned: list[str]) -> Conditions:
        texts = r.texts.repeated(r.per_prompt)
        if texts.prompts is not None:
            pairs = zip(texts.prompts, r.scales, strict=True)
            texts = replace(texts, prompts=["" if g == 0 else p for p, g in pairs])
        r = replace(r, texts=texts, per_prompt=1)
        embeds, _ = self._told(r, warned)
        text = joined("prompt_embeds", embeds.negative, embeds.text)
        pooled = joined("pooled_prompt_embeds", embeds.negative_pooled, embeds.pooled)
        level = pooled.new_zeros(len(pooled), 2 * LEVEL_WIDTH)
        level[:, :LEVEL_WIDTH] = 1
        return LatentUpscaleConditions(text, guidance=torch.cat([level, pooled], dim=1))

    def _noise_conditions(self, r: Request, conditions: Conditions, noise: NoiseSource) -> None:
        """Shows the U-Net the small pictures' latents: drawn before the start's, as diffusers."""
        assert isinstance(r, LatentUpscaleRequest)
        small = replace(r, height=r.height // 2, width=r.width // 2, images=list(r.small))
        found = LatentMaker(self.vae, small, noise, self.dtype).image_latents()
        conditions.extra = F.interpolate(found, scale_factor=2, mode="nearest")
