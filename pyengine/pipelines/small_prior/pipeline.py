"""A small unCLIP: a prior makes a picture's embedding from a text, a decoder latents from that.

Ramesh et al. 2022, arXiv:2204.06125.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ...diffusion.conditions import Conditions
from ...diffusion.latents import unscale_latents
from ...diffusion.staged import StagedJob
from ...guard import inference
from ...jobs.output import PipelineOutput
from ...jobs.runs import Run
from ...models import AutoencoderKL, PriorTransformer
from ...models.base import Model
from ..defaults import bounded
from ..diffusers_names.schedulers import NamedScheduler
from ..prior_denoiser import PriorConditions, PriorDenoiser
from ..shipped_text import ShippedText
from ..two_stages import TwoStageCourse, TwoStagePipeline
from ..unprompted import CALLBACK_TENSORS


@dataclass(frozen=True)
class SmallPriorDefaults:
    """Of a call of SmallPriorPipeline."""

    prior_num_inference_steps: int = bounded(10, 2, 1000)
    num_inference_steps: int = bounded(20, 1, 1000)
    prior_guidance_scale: float = bounded(1.0, 0, 1000)
    guidance_scale: float = bounded(2.0, 0, 1000)


class SmallPriorPipeline(TwoStagePipeline):
    """Text to pictures with a checkpoint of `pyengine train prior`; see `__call__`."""

    defaults_class: ClassVar[type[Any]] = SmallPriorDefaults
    steps_of = (
        ("prior_num_inference_steps", "prior_guidance_scale"),
        ("num_inference_steps", "guidance_scale"),
    )
    main_part = "decoder"

    def __init__(
        self,
        models: dict[str, Model],
        vae: AutoencoderKL,
        text: ShippedText,
        checkpoint: Any,
        source: str,
        defaults: Any,
        scheduler: NamedScheduler,
    ):
        """models: "prior" and "decoder". vae: of the decoder's latents."""
        prior, decoder = models["prior"], models["decoder"]
        denoisers = {"prior": PriorDenoiser(cast(PriorTransformer, prior)), "decoder": decoder}
        own: dict[str, Model] = {**models, "vae": vae}
        super().__init__(own, denoisers, text, checkpoint, source, defaults, scheduler)
        side = decoder.config.sample_size
        self.shapes = ((prior.config.embedding_dim,), (decoder.config.out_channels, side, side))

    @property
    def vae(self) -> AutoencoderKL:
        return cast(AutoencoderKL, self.models["vae"])

    @property
    def default_size(self) -> tuple[int, int]:
        factor = self.vae.config.downscale
        return self.shapes[1][1] * factor, self.shapes[1][2] * factor

    @inference
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        *,
        prior_num_inference_steps: int | None = None,
        prior_guidance_scale: float | Sequence[float] | None = None,
        guidance_method: str = "cfg",
        negative_scale: float | None = None,
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        height: int | None = None,
        width: int | None = None,
        seed: int | Sequence[int] | None = None,
        upscaler: Any = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = CALLBACK_TENSORS,
        progress: bool | None = None,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """Pictures for one prompt or a list of them. What is not named here is as of
        PixelDiffusionPipeline's call.

        Args:
            num_inference_steps, prior_num_inference_steps: of the decoder, and of the prior; 20 and
                10 unless told or the checkpoint says otherwise.
            guidance_scale, prior_guidance_scale: of the decoder (away from no embedding) and of the
                prior (away from the negative prompt), for all, or one per picture; 1 or less leaves
                guidance out. 2 and 1 unless told or the checkpoint says otherwise.
            output_type: "pil", "np", "pt" (0 to 1) or "latent", the latents that are decoded.
            guidance_method, negative_scale, guidance_start, guidance_end: as of
                StableDiffusionPipeline's call, of each stage and its own steps; "perp-neg" and
                "composed" of the prior alone, which reads the negative prompt.
            callback_on_step_end: its steps count on from stage to stage; its "latents" are
                embeddings [N, D] of the prior, then latents.
            run: a Run, to end this call from elsewhere. A picture that was ended before its decoder
                began is grey.

        Raises RequestError that names the argument.
        """
        output: PipelineOutput = self._call(locals())
        return output

    def _told(
        self,
        course: TwoStageCourse,
        stage: int,
        jobs: Sequence[StagedJob],
        names: tuple[str, ...],
    ) -> Conditions:
        if not stage:
            read = course.texts(jobs, names)
            seen = torch.ones(read.hidden.shape[:2], device=read.hidden.device)
            return PriorConditions(read.hidden, names=names, projected=read.vectors, seen=seen)
        prior = cast(PriorTransformer, self.models["prior"])
        told = torch.cat([prior.post_process_latents(job.latents) for job in jobs])
        if len(names) == 2:
            told = torch.cat([torch.zeros_like(told), told])
        return Conditions(labels=told, pictures=len(jobs), names=names)

    def _seen(self, latents: Tensor) -> Tensor:
        if latents.dim() == 2:  # an embedding, of which there is nothing to see yet
            height, width = self.default_size
            return latents.new_zeros(1, 3, height, width)
        latents = unscale_latents(latents, self.vae.config, per_channel=False)
        found: Tensor = self.vae.decode(latents, return_dict=False)[0]
        return found
