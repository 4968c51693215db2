"""What the pipelines share that denoise without a text: requests, jobs, pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import Tensor

from .. import images as pictures
from ..cuda import to_device
from ..diffusion.call import DenoisingCall
from ..diffusion.conditions import Conditions
from ..diffusion.evaluator import Evaluator
from ..diffusion.job import DenoisingJob
from ..diffusion.step import step
from ..diffusion.watch import check_noted
from ..errors import ConfigError
from ..finite import check_finite
from ..guidance import Guidance, Method
from ..jobs import checks
from ..jobs.job import Call
from ..jobs.noise import NoiseSource
from ..jobs.output import PipelineOutput, Report
from ..jobs.request import CallRequest, expected
from ..models.base import Model
from ..schedules import Plan, find_name
from ..schedules.plan import State
from ..schedules.plus_plus import check_plus_plus
from .arguments import checked
from .base import NetworkPipeline
from .class_labels import Labels, labels_and_count
from .classifiers import Classifier, find_classifier, labels_of
from .defaults import bounded
from .diffusers_names.schedulers import NamedScheduler
from .diffusers_names.scheduling import SchedulerNames
from .guidance_methods import method_of, scale_or_default, taken
from .guides import NAMES, Guides, guides_of, labels_to_follow
from .keywords import refuse_others

if TYPE_CHECKING:
    from typing_extensions import TypeVar
else:
    from typing import TypeVar

#: What a callback may ask for and give back.
CALLBACK_TENSORS = ("latents",)


@dataclass(frozen=True)
class UnpromptedDefaults:
    """What a call uses where the caller says nothing; a checkpoint's pyengine.json may say more."""

    num_inference_steps: int = bounded(50, 1, 1000)


@dataclass(kw_only=True)
class UnpromptedRequest(CallRequest):
    """A call's arguments, checked. height, width: pixels. labels: what the network is told,
    [count, ...] or None. guides: what guides by gradients.

    plan: what schedules.Scheduler.plan is told. guidance_scale: of each picture. method: how,
    and at which steps, it guides.
    """

    count: int
    height: int
    width: int
    labels: Tensor | None
    generators: list[torch.Generator] | torch.Generator
    latents: Tensor | None
    scheduler: str | None
    plan: dict[str, Any]
    guidance_scale: tuple[float, ...] = ()
    method: Method = field(default_factory=Method)
    guides: Guides = field(default_factory=Guides)
    callback_inputs: tuple[str, ...] = CALLBACK_TENSORS
    callback_known: tuple[str, ...] = CALLBACK_TENSORS

    @property
    def evaluations(self) -> int:
        plan = self.plan
        return expected(plan, plan.get("num_inference_steps"), plan.get("strength"))


if TYPE_CHECKING:
    UnpromptedT = TypeVar("UnpromptedT", bound=UnpromptedRequest, default=Any)
else:
    UnpromptedT = TypeVar("UnpromptedT")


class UnpromptedPipeline(SchedulerNames, NetworkPipeline[UnpromptedT, DenoisingJob]):
    """Base of the pipelines that denoise without a text.

    Made by `pyengine.from_pretrained`. A subclass has `main_part`, `known_labels`, `factor`,
    `channels`, `default_size` and `__call__`; `pixels_of`, where what is denoised is no picture;
    `_conditions`, where it guides.
    """

    defaults_class: ClassVar[type[Any]] = UnpromptedDefaults
    takes_prompt: ClassVar[bool] = False
    #: The part that predicts.
    main_part: ClassVar[str]
    #: What errors call the part that makes pictures of what was denoised; None where that are some.
    decoder_part: ClassVar[str | None] = None
    #: Whether it is told prompts or embeddings, which count the pictures, and no class.
    told_else: ClassVar[bool] = False

    def __init__(
        self,
        models: dict[str, Model],
        checkpoint: Any,
        source: str,
        defaults: Any,
        scheduler: NamedScheduler,
    ):
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

    def _guided(self, r: UnpromptedRequest) -> bool:
        """Whether any picture takes more than one row."""
        return any(map(r.method.guides, r.guidance_scale))

    def _guidance(self, r: UnpromptedT) -> list[Guidance]:
        """Of each picture."""
        return [r.method.guidance(scale) for scale in r.guidance_scale]

    def _conditions(self, r: UnpromptedT) -> Conditions:
        labels = None if r.labels is None else to_device(r.labels, self.device)
        return Conditions(labels=labels, pictures=r.count)

    def pixels_of(self, latents: Tensor) -> Tensor:
        """[1, 3 or 1, H, W] in about -1..1 of one that was denoised, [1, C, h, w]. Gradients go
        through it within models.differentiable.
        """
        return latents

    def _decode(self, latents: Tensor, output_type: str) -> Any:
        """Pictures of what was denoised, [N, C, h, w], as the output type has them."""
        # One by one: a decoder takes the most memory of all, and a picture does not depend on how
        # many there are.
        decoded = torch.cat([self.pixels_of(z[None]) for z in latents])
        if self.decoder_part is not None:
            check_finite(f"{self.source}: {self.decoder_part}", decoded)
        return pictures.from_tensor(decoded.expand(-1, 3, -1, -1), output_type)

    # --- what it is -------------------------------------------------------------------------------

    @property
    def network(self) -> Model:
        """The part that predicts."""
        return self.models[self.main_part]

    @property
    def denoiser(self) -> Any:
        """The network that predicts."""
        return self.network

    @property
    def components(self) -> dict[str, Any]:
        return {**self.models, "scheduler": self.scheduler}

    @property
    def _scheduler_keys(self) -> dict[str, Any]:
        return dict(self.checkpoint.config("scheduler"))

    # --- arguments --------------------------------------------------------------------------------

    def _request(
        self,
        *,
        class_labels: Any,
        batch_size: Any,
        num_images_per_prompt: Any,
        height: Any,
        width: Any,
        num_inference_steps: Any,
        timesteps: Any,
        timestep_spacing: Any,
        eta: Any,
        latents: Any,
        seed: Any,
        generator: Any,
        scheduler: Any,
        output_type: Any,
        callback_on_step_end: Any,
        callback_on_step_end_tensor_inputs: Any,
        return_dict: Any,
        timeout: Any,
        run: Any,
        others: dict[str, Any],
        guidance_scale: Any = 1.0,
        prompts: Sequence[str] | None = None,
        has_negative: bool | None = None,
        **plan: Any,
    ) -> UnpromptedRequest:
        """The arguments that all have, checked. guidance_scale: of those that guide; prompts: in
        words; has_negative: as of method_of; plan: what else the sampler is told, and of guides'
        and guidance_methods' NAMES those that the pipeline has; others: those that it has not,
        which must ask for nothing.
        """
        refuse_others(others, self.__call__)
        how = taken(plan)
        method = method_of(how, has_negative=has_negative)
        if guidance_scale is None:
            guidance_scale = scale_or_default(how, None, self.defaults.guidance_scale)
        guides = {name: plan.pop(name, None) for name in NAMES}
        given = {"num_inference_steps": num_inference_steps, "eta": eta, "output_type": output_type}
        simple = checked(given, self.defaults)
        guide = find_classifier(
            guides["classifier"], guides["classifier_scale"], self.device, self._kept
        )
        labels, count = self._labels(guide, class_labels, batch_size, num_images_per_prompt)
        size = self._check_size(height, width, count)
        shape = self.channels, size[0] // self.factor, size[1] // self.factor
        if latents is not None:
            latents = checks.check_latents(latents, (count, *shape))
        seeds, generators = checks.seeds_and_generators(seed, generator, count, self.device)
        plan |= {"timesteps": timesteps, "timestep_spacing": timestep_spacing}
        plan = {name: value for name, value in plan.items() if value is not None}
        if timesteps is None:
            plan["num_inference_steps"] = simple["num_inference_steps"]
        scales = checks.guidance_scales("guidance_scale", guidance_scale, count)
        method.check(scales)
        return UnpromptedRequest(
            count=count,
            height=size[0],
            width=size[1],
            labels=None if self.known_labels is None else labels,
            guides=guides_of(guides, self, prompts, count, shape, guide, labels),
            output_type=simple["output_type"],
            seeds=seeds,
            generators=generators,
            latents=latents,
            scheduler=None if scheduler is None else find_name(scheduler),
            plan={**plan, "eta": simple["eta"]},
            guidance_scale=scales,
            method=method,
            callback=callback_on_step_end,
            callback_inputs=checks.check_callback(
                callback_on_step_end, callback_on_step_end_tensor_inputs, CALLBACK_TENSORS
            ),
            **checks.manners(run, timeout, return_dict),
        )

    def _labels(
        self, classifier: Classifier | None, value: Any, batch_size: Any, per_prompt: Any
    ) -> tuple[Tensor | None, int]:
        """(labels [N, ...], or None, N), of the network's classes and of the classifier's."""
        known = self.known_labels
        if not self.told_else:
            known = known if classifier is None else labels_of(classifier, known)
            return labels_and_count(known, value, batch_size, per_prompt)
        count = labels_and_count(None, None, batch_size, per_prompt)[1]
        return labels_to_follow(classifier, value, batch_size, count), count

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

    def _report(self, r: UnpromptedT) -> Report:
        scales = set(r.guidance_scale)
        return Report(
            model=self.source,
            pipeline=self._class_name,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            sampler="",
            height=r.height,
            width=r.width,
            guidance_scale=scales.pop() if len(scales) == 1 else r.guidance_scale,
            weights=self.network.weights,
        )

    def _planned(self, r: UnpromptedT, report: Report) -> tuple[Plan, NamedScheduler]:
        """The request's run, and its sampler; the report gets its name and warnings."""
        named = self.scheduler if r.scheduler is None else self._named_scheduler(r.scheduler)
        r.guides.check_scheduler(named.sampler)
        plan = self._plan(r, named.sampler)
        if plan.variance is not None and not self.predicts_variance:
            raise ConfigError(
                f"scheduler config: variance_type {plan.variance!r} is for models that predict a"
                f" variance too, and this one gives {self.channels} channels, not twice as many"
            )
        if r.method.name == "cfg++":
            check_plus_plus(plan)
        report.sampler = plan.sampler
        report.warnings += named.sampler.warnings
        return plan, named

    def _begin(self, r: UnpromptedT, report: Report) -> DenoisingCall[UnpromptedT]:
        plan, named = self._planned(r, report)
        r.run.settings = {"num_timesteps": len(plan)}
        noise = NoiseSource(r.generators, self.device)
        with report.stage("prepare", self.device):
            state = self._start(r, plan, noise)
            conditions = self._conditions(r)
            conditions.changed(cast(Any, self.network))
        with report.stage("denoise", self.device):
            call = DenoisingCall(
                self, self._evaluate, r, plan, state, conditions, noise, report, self._guidance(r)
            )
            r.guides.guide(call.jobs, self, named.sampler, report.warnings)
            return call

    def _plan(self, r: UnpromptedT, sampler: Any) -> Plan:
        """Of a sampler of schedules.Scheduler. Raises RequestError where it does not fit."""
        plan: Plan = sampler.plan(**r.plan)
        return plan

    def _start(self, r: UnpromptedT, plan: Plan, noise: NoiseSource) -> State:
        """What the sampler begins with: noise."""
        return plan.start(self._noise(r, noise))

    def _noise(self, r: UnpromptedT, noise: NoiseSource) -> Tensor:
        if r.latents is not None:
            return r.latents.to(self.device, self.dtype)
        sides = r.height // self.factor, r.width // self.factor
        return noise.draw((r.count, self.channels, *sides), self.dtype)

    def _step(self, jobs: Sequence[DenoisingJob]) -> None:
        step(self._evaluate, jobs)

    def _picture(self, job: DenoisingJob) -> Any:
        check_noted([job])
        return self._preview(job.latents, job.request.output_type)[0]

    def _output(self, call: Call[UnpromptedT, DenoisingJob]) -> PipelineOutput:
        assert isinstance(call, DenoisingCall)
        with call.report.stage("decode", self.device):
            images = self._preview(call.latents(), call.request.output_type)
        return PipelineOutput(images, call.request.seeds, call.report)

    def _preview(self, latents: Tensor, output_type: str) -> Any:
        return latents if output_type == "latent" else self._decode(latents, output_type)

    def _release(self) -> None:
        self._evaluate.clear()

    def _trim(self) -> None:
        self.network.arena.trim()
