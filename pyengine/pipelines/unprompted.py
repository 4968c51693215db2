"""What the pipelines share that denoise without a text: requests, jobs, pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ..cuda import to_device
from ..diffusion.call import DenoisingCall
from ..diffusion.conditions import Conditions
from ..diffusion.evaluator import Evaluator
from ..diffusion.job import DenoisingJob
from ..diffusion.step import step
from ..diffusion.watch import check_noted
from ..errors import ConfigError
from ..guidance import Guidance
from ..jobs import checks
from ..jobs.job import Call, Job
from ..jobs.noise import NoiseSource
from ..jobs.output import PipelineOutput, Report
from ..jobs.runs import Run
from ..models.base import Model
from ..schedules import Plan, find_name
from ..schedules.plan import State
from .arguments import checked
from .base import Pipeline
from .class_labels import Labels, labels_and_count
from .classifiers import Classifier, check_pictures, check_scheduler, find_classifier, labels_of
from .defaults import bounded
from .diffusers_names.schedulers import NamedScheduler
from .diffusers_names.scheduling import SchedulerNames
from .keywords import refuse_others

#: What a callback may ask for and give back.
CALLBACK_TENSORS = ("latents",)


@dataclass(frozen=True)
class UnpromptedDefaults:
    """What a call uses where the caller says nothing; a checkpoint's pyengine.json may say more."""

    num_inference_steps: int = bounded(50, 1, 1000)


@dataclass
class UnpromptedRequest:
    """A call's arguments, checked. height, width: pixels. labels: what the network is told,
    [count, ...] or None. classifier: what guides the pictures, with their labels.

    plan: what schedules.Scheduler.plan is told. guidance_scale: of each picture.
    """

    count: int
    height: int
    width: int
    labels: Tensor | None
    output_type: str
    seeds: list[int | None]
    generators: list[torch.Generator] | torch.Generator
    latents: Tensor | None
    scheduler: str | None
    plan: dict[str, Any]
    run: Run
    guidance_scale: tuple[float, ...] = ()
    classifier: Classifier | None = None
    callback: Any = None
    callback_inputs: tuple[str, ...] = CALLBACK_TENSORS
    callback_known: tuple[str, ...] = CALLBACK_TENSORS
    timeout: float | None = None
    return_dict: bool = True
    upscaler: Any = None
    settings: dict[str, Any] = field(default_factory=dict)


class UnpromptedPipeline(SchedulerNames, Pipeline):
    """Base of the pipelines that denoise without a text.

    Made by `pyengine.from_pretrained`. A subclass has `main_part`, `known_labels`, `factor`,
    `channels`, `default_size`, `_decode` and `__call__`; `_guidance` and `_conditions`, where it
    guides.
    """

    defaults_class: ClassVar[type[Any]] = UnpromptedDefaults
    takes_prompt: ClassVar[bool] = False
    #: The part that predicts.
    main_part: ClassVar[str]

    def __init__(
        self, models: dict[str, Model], checkpoint: Any, source: str, defaults: Any,
        scheduler: NamedScheduler,
    ):  # fmt: skip
        """models: by part. source: the path or Hub id it was loaded from."""
        super().__init__()
        self.models, self.checkpoint = models, checkpoint
        self.source, self.defaults = source, defaults
        for model in models.values():  # one for all, which work one after the other
            model.arena = self.network.arena
        self._evaluate = Evaluator(cast(Any, self.network))
        self._sampler = scheduler

    # --- a subclass's part ------------------------------------------------------------------------

    @property
    def known_labels(self) -> Labels | None:
        """What class_labels are; None where the network is told none."""
        return None

    @property
    def factor(self) -> int:
        """Pixels per pixel of what is denoised, along each side."""
        return 1

    @property
    def channels(self) -> int:
        """Of what is denoised."""
        raise NotImplementedError

    @property
    def predicts_variance(self) -> bool:
        """Whether the network says something of the noise's variance, too."""
        return False

    @property
    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        raise NotImplementedError

    @property
    def multiple(self) -> int:
        """What sides in pixels are multiples of."""
        return self.factor

    @property
    def smallest_side(self) -> int:
        """In pixels."""
        return self.multiple

    def _guidance(self, r: UnpromptedRequest) -> list[Guidance] | None:
        """Of each picture; None: none has any."""
        return None

    def _conditions(self, r: UnpromptedRequest) -> Conditions:
        labels = None if r.labels is None else to_device(r.labels, self.device)
        return Conditions(labels=labels, pictures=r.count)

    def _decode(self, latents: Tensor, output_type: str) -> Any:
        """Pictures of what was denoised, [N, C, h, w], as the output type has them."""
        raise NotImplementedError

    # --- what it is -------------------------------------------------------------------------------

    @property
    def network(self) -> Model:
        """The part that predicts."""
        return self.models[self.main_part]

    @property
    def model_hash(self) -> str:
        """SHA-256 of the weights, hexadecimal."""
        found: str = self.checkpoint.model_hash
        return found

    @property
    def device(self) -> torch.device:  # type: ignore[override] # the network's, not set
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        return self.network.dtype

    @property
    def components(self) -> dict[str, Any]:
        return {**self.models, "scheduler": self.scheduler}

    @property
    def _scheduler_keys(self) -> dict[str, Any]:
        return dict(self.checkpoint.config("scheduler"))

    # --- arguments --------------------------------------------------------------------------------

    def _request(
        self, *, class_labels: Any, batch_size: Any, num_images_per_prompt: Any, height: Any,
        width: Any, num_inference_steps: Any, timesteps: Any, timestep_spacing: Any, eta: Any,
        latents: Any, seed: Any, generator: Any, scheduler: Any, output_type: Any,
        callback_on_step_end: Any, callback_on_step_end_tensor_inputs: Any, return_dict: Any,
        timeout: Any, run: Any, others: dict[str, Any], guidance_scale: Any = 1.0,
        classifier: Any = None, classifier_scale: Any = None, **plan: Any,
    ) -> UnpromptedRequest:  # fmt: skip
        """The arguments that all have, checked. guidance_scale: of those that guide; classifier,
        classifier_scale: of those that a classifier guides; plan: more that the sampler is told;
        others: those that the pipeline has not, which must ask for nothing.
        """
        refuse_others(others, self.__call__)
        given = {"num_inference_steps": num_inference_steps, "eta": eta, "output_type": output_type}
        simple = checked(given, self.defaults)
        guide = find_classifier(classifier, classifier_scale, self.device)
        known = self.known_labels if guide is None else labels_of(guide, self.known_labels)
        labels, count = labels_and_count(known, class_labels, batch_size, num_images_per_prompt)
        size = self._check_size(height, width, count)
        if guide is not None and labels is not None:
            check_pictures(guide, self.channels, *(side // self.factor for side in size))
            guide = replace(guide, labels=tuple(labels.tolist()))
        if latents is not None:
            shape = (count, self.channels, *(side // self.factor for side in size))
            latents = checks.check_latents(latents, shape)
        seeds, generators = checks.seeds_and_generators(seed, generator, count, self.device)
        plan |= {"timesteps": timesteps, "timestep_spacing": timestep_spacing}
        plan = {name: value for name, value in plan.items() if value is not None}
        if timesteps is None:
            plan["num_inference_steps"] = simple["num_inference_steps"]
        return UnpromptedRequest(
            count=count, height=size[0], width=size[1],
            labels=None if self.known_labels is None else labels, classifier=guide,
            output_type=simple["output_type"], seeds=seeds, generators=generators, latents=latents,
            scheduler=None if scheduler is None else find_name(scheduler),
            plan={**plan, "eta": simple["eta"]},
            guidance_scale=checks.guidance_scales("guidance_scale", guidance_scale, count),
            callback=callback_on_step_end,
            callback_inputs=checks.check_callback(
                callback_on_step_end, callback_on_step_end_tensor_inputs, CALLBACK_TENSORS
            ),
            **checks.manners(run, timeout, return_dict),
        )  # fmt: skip

    def _check_size(self, height: Any, width: Any, count: int) -> tuple[int, int]:
        least, found = self.smallest_side, []
        for name, value, own in zip(
            ("height", "width"), (height, width), self.default_size, strict=True
        ):
            side = checks.side(name, own if value is None else value, self.multiple)
            if side < least:
                raise checks.refuse(name, f"at least {least}", side)
            found.append(side)
        checks.check_total(found[0], found[1], count)
        return found[0], found[1]

    # --- the run ----------------------------------------------------------------------------------

    def _report(self, r: UnpromptedRequest) -> Report:
        scales = set(r.guidance_scale)
        return Report(
            model=self.source, pipeline=self._class_name, device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."), sampler="", height=r.height,
            width=r.width, guidance_scale=scales.pop() if len(scales) == 1 else r.guidance_scale,
            weights=self.network.weights,
        )  # fmt: skip

    def _begin(self, r: UnpromptedRequest, report: Report) -> DenoisingCall:
        named = self.scheduler if r.scheduler is None else self._named_scheduler(r.scheduler)
        if r.classifier is not None:
            check_scheduler("classifier", named.sampler)
        plan: Plan = named.sampler.plan(**r.plan)
        if plan.variance is not None and not self.predicts_variance:
            raise ConfigError(
                f"scheduler config: variance_type {plan.variance!r} is for models that predict a"
                f" variance too, and this one gives {self.channels} channels, not twice as many"
            )
        report.sampler = plan.sampler
        report.warnings += named.sampler.warnings
        r.run.settings = {"num_timesteps": len(plan), **r.settings}
        noise = NoiseSource(r.generators, self.device)
        with report.stage("prepare", self.device):
            state = self._start(r, plan, noise)
            conditions = self._conditions(r)
            conditions.changed(cast(Any, self.network))
        with report.stage("denoise", self.device):
            call = DenoisingCall(
                self, self._evaluate, r, plan, state, conditions, noise, report, self._guidance(r)
            )
            if r.classifier is not None:
                for job, own in zip(call.jobs, r.classifier.guidance(named.sampler), strict=True):
                    job.gradients = own
            return call

    def _start(self, r: UnpromptedRequest, plan: Plan, noise: NoiseSource) -> State:
        """What the sampler begins with: noise."""
        return plan.start(self._noise(r, noise))

    def _noise(self, r: UnpromptedRequest, noise: NoiseSource) -> Tensor:
        if r.latents is not None:
            return r.latents.to(self.device, self.dtype)
        sides = r.height // self.factor, r.width // self.factor
        return noise.draw((r.count, self.channels, *sides), self.dtype)

    def _step(self, jobs: Sequence[Job]) -> None:
        step(self._evaluate, cast(Sequence[DenoisingJob], jobs))

    def _picture(self, job: Job) -> Any:
        assert isinstance(job, DenoisingJob)  # of this pipeline
        check_noted([job])
        return self._preview(job.latents, job.request.output_type)[0]

    def _output(self, call: Call) -> PipelineOutput:
        assert isinstance(call, DenoisingCall)
        with call.report.stage("decode", self.device):
            images = self._preview(call.latents(), call.r.output_type)
        return PipelineOutput(images, call.r.seeds, call.report)

    def _preview(self, latents: Tensor, output_type: str) -> Any:
        return latents if output_type == "latent" else self._decode(latents, output_type)

    def _release(self) -> None:
        self._evaluate.clear()

    def _trim(self) -> None:
        self.network.arena.trim()
