"""Kandinsky 2.2 from texts to pictures: its prior and its decoder as one pipeline.

Razzhigaev et al. 2023, arXiv:2310.03502.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ... import images as pictures
from ...diffusion.staged import Stage, StagedJob, enter_stages
from ...errors import RequestError
from ...finite import check_finite
from ...guard import inference
from ...jobs import checks
from ...jobs.output import PipelineOutput, Report
from ...jobs.runs import Run
from ...models import UNet2DConditionModel
from ...models.base import Model
from ...schedules import unclip
from ..defaults import bounded
from ..diffusers_names.scheduling import SchedulerNames
from ..keywords import refuse_others
from ..staged import StagedPipeline
from ..unprompted import CALLBACK_TENSORS
from .combined_call import CombinedCall, CombinedCourse, CombinedRequest
from .pipeline import KandinskyDefaults, KandinskyV22Pipeline
from .prior import KandinskyV22PriorPipeline
from .prior_call import PriorRequest

#: Pixels along a side of the grey square that a preview shows while there are only embeddings.
PREVIEW = 64
_PRIOR = "prior_"


@dataclass(frozen=True)
class CombinedDefaults(KandinskyDefaults):
    """Of diffusers' KandinskyV22CombinedPipeline and its like."""

    prior_num_inference_steps: int = bounded(25, 2, 1000)
    prior_guidance_scale: float = bounded(4.0, 0, 1000)


class KandinskyV22CombinedPipeline(SchedulerNames, StagedPipeline[CombinedRequest]):
    """Text to pictures with Kandinsky 2.2's prior and decoder; see `__call__`."""

    defaults_class: ClassVar[type[Any]] = CombinedDefaults
    takes_prompt: ClassVar[bool] = True
    main_part: ClassVar[str] = "unet"

    def __init__(
        self,
        prior: KandinskyV22PriorPipeline,
        decoder: KandinskyV22Pipeline,
        checkpoint: Any,
        source: str,
        defaults: Any,
    ):
        """prior, decoder: over the checkpoint's parts."""
        super().__init__()
        self.prior_pipe, self.decoder_pipe = prior, decoder
        self.checkpoint, self.source, self.defaults = checkpoint, source, defaults
        self.models = {
            **{f"{_PRIOR}{name}": model for name, model in prior.models.items()},
            **decoder.models,
        }
        for model in self.models.values():  # one for all, which work one after the other
            model.arena = decoder.unet.arena
        self.stages = Stage("prior", prior._evaluate), Stage("unet", decoder._evaluate)
        self._sampler = decoder.scheduler

    # --- what it is -------------------------------------------------------------------------------

    @property
    def unet(self) -> UNet2DConditionModel:
        return self.decoder_pipe.unet

    @property
    def _scheduler_keys(self) -> dict[str, Any]:
        return dict(self.checkpoint.config("scheduler"))

    @property
    def network(self) -> Model:
        return self.unet

    @property
    def components(self) -> dict[str, Any]:
        own = {f"{_PRIOR}{name}": part for name, part in self.prior_pipe.components.items()}
        return {**own, **self.decoder_pipe.components, "scheduler": self.scheduler}

    @inference
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        num_images_per_prompt: int = 1,
        height: int | None = None,
        width: int | None = None,
        prior_guidance_scale: float | Sequence[float] | None = None,
        prior_num_inference_steps: int | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        *,
        return_dict: bool = True,
        image: Any = None,
        strength: float | None = None,
        mask_image: Any = None,
        decoder_latents: Tensor | None = None,
        guidance_method: str = "cfg",
        guidance_start: float = 0.0,
        guidance_end: float = 1.0,
        clip_model: Any = None,
        clip_guidance_scale: float | None = None,
        clip_prompt: str | Sequence[str] | None = None,
        clip_image: Any = None,
        classifier: Any = None,
        classifier_scale: float | None = None,
        class_labels: Any = None,
        timesteps: Sequence[int] | None = None,
        timestep_spacing: str | None = None,
        eta: float = 0.0,
        seed: int | Sequence[int] | None = None,
        scheduler: str | None = None,
        upscaler: Any = None,
        prior_callback_on_step_end: Callable[..., Any] | None = None,
        prior_callback_on_step_end_tensor_inputs: Sequence[str] = CALLBACK_TENSORS,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = CALLBACK_TENSORS,
        progress: bool | None = None,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """Pictures for one prompt or a list of them; names and order are those of diffusers'
        KandinskyV22CombinedPipeline, with the image, strength and mask_image of its
        KandinskyV22Img2ImgCombinedPipeline and KandinskyV22InpaintCombinedPipeline.

        Args:
            prompt: one text or B of them.
            negative_prompt: one for all or one each, whose embeddings are made too, to guide the
                decoder away from; None: CLIP's embedding of a grey picture.
            num_inference_steps, guidance_scale, height, width, image, strength, mask_image,
                timesteps, timestep_spacing, eta, scheduler, guidance_method, guidance_start,
                guidance_end, clip_model, clip_guidance_scale, clip_prompt, clip_image, classifier,
                classifier_scale, class_labels: of the decoder, see KandinskyV22Pipeline.
            num_images_per_prompt: pictures of a prompt follow each other.
            prior_num_inference_steps, prior_guidance_scale: of the prior, see
                KandinskyV22PriorPipeline; 25 and 4 unless told.
            generator: one per picture (with negative prompts behind them as many for these), or one
                from which all is drawn as diffusers does.
            latents: [N, D] standard normal noise of the prior in place of drawn; with negative
                prompts [2 N, D].
            output_type: "pil", "np", "pt" (0 to 1) or "latent", the decoder's.
            return_dict: False gives a tuple in place of a PipelineOutput.
            decoder_latents: [N, C, h, w], of the decoder.
            seed: s gives picture i the seed s + i; a list one each; None random ones, which the
                result tells.
            upscaler: a file or folder of one, or an UpscalePipeline, which enlarges the pictures.
            prior_callback_on_step_end, callback_on_step_end: of each of the two, called as (pipe,
                step, timestep, {"latents": tensor}) after every evaluation of its network; it may
                return them changed.
            prior_callback_on_step_end_tensor_inputs, callback_on_step_end_tensor_inputs: what of
                these they are given: latents.
            progress: a bar on standard error; None shows one on a terminal.
            timeout: seconds to wait for calls of other threads, then BusyError.
            run: a Run, to end this call from elsewhere; a picture that was ended before its decoder
                began is grey.

        With seeds, or a generator per picture, a picture does not depend on the others in the
        call. Raises RequestError that names the argument.
        """
        output: PipelineOutput = self._call(locals())
        return output

    # --- arguments --------------------------------------------------------------------------------

    def _checked(self, arguments: dict[str, Any]) -> CombinedRequest:
        a = dict(arguments)
        refuse_others(a.pop("others"), self.__call__)
        shared = {"timeout": a["timeout"], "others": {}}
        shared["run"] = checks.manners(a["run"], a["timeout"], a["return_dict"])["run"]
        times = a["num_images_per_prompt"]
        prior = self._checked_prior(a, shared | {"num_images_per_prompt": times})
        generators = prior.generators
        if isinstance(generators, list):
            generators = generators[: prior.wanted]
        # What the prior is going to make: of the right shape, so that all else is checked now.
        empty = torch.zeros(prior.wanted // times, self.unet.config.encoder_hid_dim)
        wide = a.pop("decoder_latents")
        decoder = self.decoder_pipe._checked(
            {
                **a,
                **shared,
                "image_embeds": empty,
                "negative_image_embeds": empty,
                "seed": None,
                "latents": wide,
                "generator": generators,
            }
        )
        decoder.seeds = prior.seeds[: prior.wanted]
        return CombinedRequest(prior, decoder, decoder.latents)

    def _checked_prior(self, a: dict[str, Any], shared: dict[str, Any]) -> PriorRequest:
        """The prior's request; takes its arguments out of the call's."""
        own = {name: a.pop(f"{_PRIOR}{name}") for name in _OF_PRIOR}
        for name in ("guidance_scale", "num_inference_steps"):
            if own[name] is None:
                own[name] = getattr(self.defaults, f"{_PRIOR}{name}")
        names = ("prompt", "negative_prompt", "latents", "seed", "generator")
        given = {name: a.pop(name) for name in names}
        try:
            return self.prior_pipe._checked(
                {**own, **given, **shared, "output_type": "pt", "return_dict": True}
            )
        except RequestError as e:
            if str(e).partition(":")[0] in _OF_PRIOR:
                raise RequestError(f"{_PRIOR}{e}") from None
            raise

    # --- the run ----------------------------------------------------------------------------------

    def _report(self, r: CombinedRequest) -> Report:
        report = self.decoder_pipe._report(r.decoder)
        report.pipeline, report.model = self._class_name, self.source
        return report

    def _begin(self, r: CombinedRequest, report: Report) -> CombinedCall:
        self.decoder_pipe._sampler = self._sampler
        plan, named = self.decoder_pipe._planned(r.decoder, report)
        plans = unclip.plan(self.prior_pipe.schedule, r.prior.num_inference_steps), plan
        r.run.settings = {"num_timesteps": sum(map(len, plans))}
        with report.stage("encode_prompt", self.device):
            conditions = self.prior_pipe._conditions(r.prior, report.warnings)
        with report.stage("prepare", self.device):
            guided = [SimpleNamespace(gradients=None) for _ in r.seeds]
            guides: Any = r.decoder.guides
            guides.guide(guided, self.decoder_pipe, named.sampler, report.warnings)
            course = CombinedCourse(
                self.prior_pipe,
                self.decoder_pipe,
                r,
                plans,
                conditions,
                [one.gradients for one in guided],
            )
            jobs = [StagedJob(r.run, i, seed, course) for i, seed in enumerate(r.seeds)]
            enter_stages(jobs)
        return CombinedCall(self, r, report, jobs)

    # --- pictures ---------------------------------------------------------------------------------

    def _pixels(self, job: StagedJob) -> Tensor:
        if job.stage:
            found = self.decoder_pipe.pixels_of(job.latents)
            check_finite(f"{self.source}: movq: the decoder", found)
            return found
        r = job.request
        return torch.zeros(1, 3, r.height, r.width, dtype=self.dtype, device=self.device)

    def _latents(self, job: StagedJob) -> Tensor:
        if job.stage:
            return job.latents
        r, pipe = job.request, self.decoder_pipe
        shape = 1, pipe.channels, r.height // pipe.factor, r.width // pipe.factor
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def _preview(self, latents: Tensor, output_type: str) -> Any:
        if latents.dim() == 4:
            return self.decoder_pipe._preview(latents, output_type)
        grey = torch.zeros(len(latents), 3, PREVIEW, PREVIEW)
        return pictures.from_tensor(grey, output_type)


#: Arguments that only the prior has, by its own names for them.
_OF_PRIOR = (
    "guidance_scale",
    "num_inference_steps",
    "callback_on_step_end",
    "callback_on_step_end_tensor_inputs",
)
