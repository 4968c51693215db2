"""Kandinsky 2.2's prior: the embedding of a picture, denoised under a text.

Ramesh et al. 2022, arXiv:2204.06125, section 2.2; Razzhigaev et al. 2023, arXiv:2310.03502.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from PIL import Image
from torch import Tensor

from ... import images as pictures
from ...clip_pictures import ClipPictureConfig, clip_pixels
from ...diffusion.call import DenoisingCall
from ...diffusion.conditions import classifier_free_names
from ...diffusion.evaluator import Evaluator
from ...diffusion.job import DenoisingJob
from ...diffusion.step import step
from ...diffusion.watch import check_noted
from ...finite import check_finite
from ...guard import inference
from ...jobs import checks
from ...jobs.job import Call
from ...jobs.noise import NoiseSource
from ...jobs.output import PipelineOutput, Report
from ...jobs.runs import Run
from ...models import (
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    PriorTransformer,
)
from ...models.base import Model
from ...schedules import unclip
from ...schedules.config import UnCLIPConfig
from ...tokenizer import ClipTokenizer
from ..arguments import checked
from ..base import NetworkPipeline
from ..defaults import bounded
from ..guidance_methods import method_of, taken
from ..keywords import refuse_others
from ..prior_denoiser import PriorConditions, PriorDenoiser
from ..text import encode, token_mask
from ..unprompted import CALLBACK_TENSORS
from .prior_call import PriorOutput, PriorRequest

#: What output_type may be: there are no pictures.
OUTPUT_TYPES = ("pt", "np")


@dataclass(frozen=True)
class PriorDefaults:
    """Of diffusers' KandinskyV22PriorPipeline."""

    num_inference_steps: int = bounded(25, 2, 1000)
    guidance_scale: float = bounded(4.0, 0, 1000)


class KandinskyV22PriorPipeline(NetworkPipeline[PriorRequest, DenoisingJob]):
    """Embeddings of pictures from texts with a Kandinsky 2.2 prior; see `__call__`."""

    defaults_class: ClassVar[type[Any]] = PriorDefaults
    takes_prompt: ClassVar[bool] = True
    makes: ClassVar[str] = "embeddings"

    def __init__(
        self,
        models: dict[str, Model],
        tokenizer: ClipTokenizer,
        image_processor: ClipPictureConfig,
        schedule: UnCLIPConfig,
        checkpoint: Any,
        source: str,
        defaults: Any,
    ):
        """models: by part. source: the path or Hub id it was loaded from."""
        super().__init__()
        self.models, self.tokenizer, self.checkpoint = models, tokenizer, checkpoint
        self.image_processor, self.schedule = image_processor, schedule
        self.source, self.defaults = source, defaults
        for model in models.values():  # one for all, which work one after the other
            model.arena = self.prior.arena
        self._evaluate = Evaluator(PriorDenoiser(self.prior))

    @property
    def prior(self) -> PriorTransformer:
        return cast(PriorTransformer, self.models["prior"])

    @property
    def image_encoder(self) -> CLIPVisionModelWithProjection:
        return cast(CLIPVisionModelWithProjection, self.models["image_encoder"])

    @property
    def text_encoder(self) -> CLIPTextModelWithProjection:
        return cast(CLIPTextModelWithProjection, self.models["text_encoder"])

    @property
    def network(self) -> Model:
        return self.prior

    @property
    def components(self) -> dict[str, Any]:
        own = {"tokenizer": self.tokenizer, "image_processor": self.image_processor}
        return {**self.models, **own}

    @inference
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        output_type: str = "pt",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = CALLBACK_TENSORS,
        *,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        seed: int | Sequence[int] | None = None,
        progress: bool | None = None,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PriorOutput:
        """Embeddings for one prompt or a list of them; names and order are those of diffusers'
        KandinskyV22PriorPipeline.

        Args:
            prompt: one text or B of them.
            negative_prompt: one for all, or one per prompt. An embedding of each is made, too:
                negative_image_embeds, which are else CLIP's of pixels that are all zero.
            num_images_per_prompt: embeddings of a prompt, which follow each other.
            num_inference_steps: 25 unless told, at least 2.
            generator: one per embedding that is made (with negative prompts twice as many, theirs
                behind), or one from which all are drawn as diffusers does.
            latents: [N, D] standard normal noise in place of drawn; with negative prompts [2 N, D].
            guidance_scale: for all (4 unless told), or one per picture; 1 or less leaves guidance
                out.
            output_type: "pt" or "np".
            return_dict: False gives (image_embeds, negative_image_embeds).
            callback_on_step_end: called as (pipe, step, timestep, {"latents": tensor}) after every
                model evaluation; it may return them changed.
            callback_on_step_end_tensor_inputs: what of these it is given: latents.
            guidance_start, guidance_end: shares of the steps between which guidance_scale holds.
            seed: s gives picture i the seed s + i; a list one each; None random ones, which the
                result tells. A negative prompt's embedding has the seed of its prompt's.
            progress: a bar on standard error; None shows one on a terminal.
            timeout: seconds to wait for calls of other threads, then BusyError.
            run: a Run, to end this call from elsewhere.

        With seeds, or a generator per embedding, one does not depend on the others in the call.
        Raises RequestError that names the argument.
        """
        output: PriorOutput = self._call(locals())
        return output

    @inference
    def interpolate(
        self,
        images_and_prompts: Sequence[Any],
        weights: Sequence[float],
        num_images_per_prompt: int = 1,
        num_inference_steps: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        negative_prior_prompt: str | None = None,
        negative_prompt: str = "",
        guidance_scale: float | Sequence[float] | None = None,
        *,
        seed: int | Sequence[int] | None = None,
    ) -> PriorOutput:
        """A weighted sum of the embeddings of texts and pictures, as diffusers' `interpolate`.

        Args:
            images_and_prompts: texts, PIL pictures, or tensors [B, 3, H, W] as the image encoder
                takes them.
            weights: of each, finite numbers.
            num_images_per_prompt, num_inference_steps, generator, latents, guidance_scale: as in
                KandinskyV22PriorPipeline.__call__.
            negative_prior_prompt: the negative prompt of the prior's calls.
            negative_prompt: negative_image_embeds is its embedding; "" those of `__call__`.
            seed: that of each of these calls. The rest as in `__call__`.
        """
        given = list(images_and_prompts) if isinstance(images_and_prompts, list | tuple) else []
        if not given:
            raise checks.refuse(
                "images_and_prompts",
                "a list of texts, PIL pictures and tensors",
                images_and_prompts,
            )
        if not isinstance(weights, list | tuple) or len(weights) != len(given):
            raise checks.refuse("weights", f"a list of {len(given)} numbers", weights)
        factors = [checks.real("weights", weight, -1e4, 1e4) for weight in weights]
        call: dict[str, Any] = {
            "num_images_per_prompt": num_images_per_prompt, "generator": generator, "seed": seed,
            "num_inference_steps": num_inference_steps, "latents": latents,
            "negative_prompt": negative_prior_prompt, "guidance_scale": guidance_scale,
        }  # fmt: skip
        times = checks.integer("num_images_per_prompt", num_images_per_prompt, 1, 1024)
        found = [
            self(item, **call).image_embeds
            if isinstance(item, str)
            else self._embedding(item).repeat(times, 1)
            for item in given
        ]
        if len({len(rows) for rows in found}) != 1:
            raise checks.refuse(
                "images_and_prompts",
                f"one picture each, so {times} rows",
                [len(rows) for rows in found],
            )
        mixed = sum(rows * factor for rows, factor in zip(found, factors, strict=True))
        other: PriorOutput = self(negative_prompt, **call)
        negative = other.negative_image_embeds if negative_prompt == "" else other.image_embeds
        return PriorOutput(mixed, other.seeds, other.report, negative_image_embeds=negative)

    def _embedding(self, item: Any) -> Tensor:
        """[B, D] of a picture, or of pixels [B, 3, H, W] as the encoder takes them."""
        if isinstance(item, Image.Image):
            items = pictures.as_list(item, "images_and_prompts")
            item = clip_pixels(items, self.image_processor, "images_and_prompts")
        if not isinstance(item, Tensor):
            raise checks.refuse(
                "images_and_prompts", "texts, PIL pictures and tensors", type(item).__name__
            )
        with self._runs.begin(Run(), self.device):
            embeds = torch.cat(
                [self.image_encoder(pixels[None], return_dict=False)[0] for pixels in item]
            )
            self._trim()
        check_finite(f"{self.source}: image_encoder", embeds)
        return embeds

    # --- arguments --------------------------------------------------------------------------------

    def _checked(self, arguments: dict[str, Any]) -> PriorRequest:
        a = arguments
        refuse_others(a["others"], self.__call__)
        names = ("num_inference_steps", "num_images_per_prompt", "output_type")
        simple = checked({name: a[name] for name in names}, self.defaults)
        checks.choice("output_type", simple["output_type"], OUTPUT_TYPES)
        if a["prompt"] is None:
            raise checks.refuse("prompt", "a text or a list of texts", None)
        prompts, times = checks.texts("prompt", a["prompt"]), simple["num_images_per_prompt"]
        negative = a["negative_prompt"]
        others = (
            None if negative is None else checks.texts("negative_prompt", negative, len(prompts))
        )
        texts, negatives = prompts + (others or []), (others or [""] * len(prompts))
        negatives = negatives * (len(texts) // len(prompts))
        texts, negatives = ([t for t in own for _ in range(times)] for own in (texts, negatives))
        wanted, count = len(prompts) * times, len(texts)
        steps = checks.integer(
            "num_inference_steps",
            simple["num_inference_steps"],
            2,
            self.schedule.num_train_timesteps,
        )
        scale = a["guidance_scale"]
        scale = self.defaults.guidance_scale if scale is None else scale
        scales = checks.guidance_scales("guidance_scale", scale, wanted, len(prompts))
        seeds, generators = self._generators(a["seed"], a["generator"], wanted, count)
        latents = a["latents"]
        if latents is not None:
            shape = (count, self.prior.config.embedding_dim)
            latents = checks.check_latents(latents, shape)
        callback, inputs = a["callback_on_step_end"], a["callback_on_step_end_tensor_inputs"]
        return PriorRequest(
            texts=texts,
            negatives=negatives,
            wanted=wanted,
            num_inference_steps=steps,
            guidance_scale=scales * (count // wanted),
            output_type=simple["output_type"],
            seeds=seeds,
            generators=generators,
            latents=latents,
            callback=callback,
            method=method_of(taken(a), has_negative=None),
            callback_inputs=checks.check_callback(callback, inputs, CALLBACK_TENSORS),
            **checks.manners(a["run"], a["timeout"], a["return_dict"]),
        )

    def _generators(
        self, seed: Any, generator: Any, wanted: int, count: int
    ) -> tuple[list[int | None], list[torch.Generator] | torch.Generator]:
        """Of `count` embeddings, those of the negative prompts with the seeds of the prompts'."""
        if generator is not None:
            return checks.seeds_and_generators(seed, generator, count, self.device)
        seeds, _ = checks.seeds_and_generators(seed, None, wanted, self.device)
        seeds = seeds * (count // wanted)
        return seeds, [torch.Generator("cpu").manual_seed(s) for s in seeds if s is not None]

    # --- the run ----------------------------------------------------------------------------------

    def _report(self, r: PriorRequest) -> Report:
        scales = set(r.guidance_scale)
        return Report(
            model=self.source,
            pipeline=self._class_name,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            sampler="unclip",
            height=0,
            width=0,
            guidance_scale=scales.pop() if len(scales) == 1 else r.guidance_scale,
            weights=self.prior.weights,
        )

    def _begin(self, r: PriorRequest, report: Report) -> DenoisingCall[PriorRequest]:
        plan = unclip.plan(self.schedule, r.num_inference_steps)
        r.run.settings = {"num_timesteps": len(plan)}
        noise = NoiseSource(r.generators, self.device)
        with report.stage("encode_prompt", self.device):
            conditions = self._conditions(r, report.warnings)
        with report.stage("prepare", self.device):
            if r.latents is not None:
                begin = r.latents.to(self.device, self.dtype)
            else:
                begin = noise.draw((r.count, self.prior.config.embedding_dim), self.dtype)
            state = plan.start(begin)
            conditions.changed(self._evaluate.unet)
        guidance = [r.method.guidance(scale) for scale in r.guidance_scale]
        with report.stage("denoise", self.device):
            return DenoisingCall(
                self, self._evaluate, r, plan, state, conditions, noise, report, guidance
            )

    def _conditions(self, r: PriorRequest, warned: list[str]) -> PriorConditions:
        guided = max(r.guidance_scale) > 1
        texts = [*r.negatives, *r.texts] if guided else r.texts
        hidden, projected = encode(self.tokenizer, self.text_encoder, texts, None, warned)
        assert projected is not None  # this encoder projects
        check_finite(f"{self.source}: text encoder", hidden)
        seen = token_mask(self.tokenizer, texts, hidden.shape[1])
        return PriorConditions(
            hidden,
            names=classifier_free_names(guided),
            projected=projected,
            seen=seen.to(self.device),
        )

    def _step(self, jobs: Sequence[DenoisingJob]) -> None:
        step(self._evaluate, jobs)

    def _picture(self, job: DenoisingJob) -> Any:
        check_noted([job])
        return self._shown(self.prior.post_process_latents(job.latents), job.request)[0]

    def _output(self, call: Call[PriorRequest, DenoisingJob]) -> PriorOutput:
        assert isinstance(call, DenoisingCall)
        r = call.request
        with call.report.stage("decode", self.device):
            made = self.prior.post_process_latents(call.latents())
            negative = made[r.wanted :]
            if not len(negative):
                negative = self.black().repeat(r.wanted, 1)
        check_finite(f"{self.source}: prior", made)
        return PriorOutput(
            self._shown(made[: r.wanted], r),
            r.seeds[: r.wanted],
            call.report,
            negative_image_embeds=self._shown(negative, r),
        )

    def black(self) -> Tensor:
        """[1, D], CLIP's embedding of pixels that are zero after normalisation: a grey picture."""
        c = self.image_encoder.config
        pixels = torch.zeros(1, c.num_channels, c.image_size, c.image_size, device=self.device)
        found: Tensor = self.image_encoder(pixels, return_dict=False)[0]
        return found

    def _shown(self, embeds: Tensor, r: PriorRequest) -> Any:
        return embeds.float().cpu().numpy() if r.output_type == "np" else embeds

    def _tuple(self, output: PipelineOutput) -> Any:
        return output.to_tuple()

    def _release(self) -> None:
        self._evaluate.clear()

    def _trim(self) -> None:
        self.prior.arena.trim()
