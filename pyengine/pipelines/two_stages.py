"""What the small models share that denoise in two stages: request, course, pictures."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

import torch
from torch import Tensor

from ..diffusion.conditions import Conditions
from ..diffusion.evaluator import Evaluator
from ..diffusion.staged import (
    Stage,
    StagedCall,
    StagedJob,
    StageNoise,
    enter_stages,
    stage_batch,
)
from ..diffusion.watch import check_start
from ..finite import check_finite
from ..guidance import EMPTY, NEGATIVE, TEXT, Method
from ..jobs import checks
from ..jobs.noise import NoiseSource
from ..jobs.output import Report
from ..jobs.request import CallRequest
from ..models.base import Model
from ..schedules import Plan
from ..schedules.plus_plus import check_plus_plus
from .arguments import check, checked
from .diffusers_names.schedulers import NamedScheduler
from .guidance_methods import method_of, scale_or_default, taken
from .keywords import refuse_others
from .shipped_text import ShippedText
from .staged import StagedPipeline
from .unprompted import CALLBACK_TENSORS


@dataclass(kw_only=True)
class TwoStageRequest(CallRequest):
    """A call's arguments, checked. prompts, negatives: of each of the N pictures. plans: of the
    stages. scales: of each stage, the guidance of each picture; () for a stage without. method:
    how, and at which steps of each stage, these guide.
    """

    count: int
    height: int
    width: int
    prompts: list[str]
    negatives: list[str]
    plans: tuple[Plan, ...]
    scales: tuple[tuple[float, ...], ...]
    generators: list[torch.Generator] | torch.Generator
    method: Method = field(default_factory=Method)
    callback_inputs: tuple[str, ...] = CALLBACK_TENSORS
    callback_known: tuple[str, ...] = CALLBACK_TENSORS

    @property
    def evaluations(self) -> int:
        """Of both stages."""
        return sum(map(len, self.plans))


@dataclass(frozen=True)
class Read:
    """What the text encoder makes of R texts. hidden: [R, L, C]. vectors: [R, C]."""

    hidden: Tensor
    vectors: Tensor

    def rows(self, index: Sequence[int]) -> "Read":
        """Some of them, in the order given."""
        at = torch.tensor(list(index), device=self.hidden.device)
        return Read(self.hidden[at], self.vectors[at])


class TwoStageCourse:
    """See pyengine.diffusion.staged.Course. pipe: says what each stage begins with and is told."""

    def __init__(self, pipe: "TwoStagePipeline", r: TwoStageRequest, read: Mapping[str, Read]):
        """read: by condition, of each picture's text."""
        self.pipe, self.r, self.read = pipe, r, read
        self.lengths = tuple(len(plan) for plan in r.plans)
        self.shapes: tuple[Hashable, ...] = tuple(stage.main_part for stage in pipe.stages)
        source = NoiseSource(r.generators, pipe.device)
        # One stream more, for noise that is no start.
        self.noise = StageNoise(source, r.count, len(pipe.stages) + 1)

    def begin(self, stage: int, jobs: Sequence[StagedJob]) -> None:
        """Has the jobs enter a stage."""
        pipe, r = self.pipe, self.r
        if stage:
            part = f"{pipe.source}: {pipe.stages[stage - 1].main_part}"
            jobs = [job for job in jobs if job.check(part, job.latents)]
        if not jobs:
            return
        scales = r.scales[stage]
        own = [scales[job.index] if scales else 1.0 for job in jobs]
        method = pipe._method(r, stage)
        names = method.names(any(map(method.guides, own)))
        conditions = pipe._told(self, stage, jobs, names)
        conditions.changed(pipe.stages[stage].evaluate.unet)
        shape = pipe.shapes[stage]
        x = torch.cat([self.noise.start(stage, job.index, shape, pipe.dtype) for job in jobs])
        plan, guidance = r.plans[stage], [method.guidance(scale) for scale in own]
        noise = [self.noise.of(stage, job.index) for job in jobs]
        inner = stage_batch(jobs, plan.start(x), plan, conditions, guidance, noise, pipe.source)
        check_start(pipe.source, x)
        for job, one in zip(jobs, inner, strict=True):
            job.enter(stage, one)

    def texts(self, jobs: Sequence[StagedJob], names: Sequence[str]) -> Read:
        """Of the jobs, under one condition after the other."""
        index = [job.index for job in jobs]
        rows = [self.read[name].rows(index) for name in names]
        return Read(torch.cat([r.hidden for r in rows]), torch.cat([r.vectors for r in rows]))


class TwoStagePipeline(StagedPipeline[TwoStageRequest]):
    """Base of these pipelines. A subclass has `steps_of`, `main_part`, `_told`, `_seen` and
    `__call__`, and gives its `stages` and `shapes` of what they denoise.
    """

    takes_prompt: ClassVar[bool] = True
    #: The arguments that say the steps and the guidance of each stage; None: it has no guidance.
    steps_of: ClassVar[tuple[tuple[str, str | None], ...]]
    #: Of each stage, whether it is guided away from the negative prompt.
    negated: ClassVar[tuple[bool, ...]] = (True, False)
    main_part: ClassVar[str]
    shapes: tuple[tuple[int, ...], ...]

    def __init__(
        self,
        models: dict[str, Model],
        denoisers: Mapping[str, Any],
        text: ShippedText,
        checkpoint: Any,
        source: str,
        defaults: Any,
        scheduler: NamedScheduler,
    ):
        """denoisers: by the parts that predict, in order. scheduler: of both stages."""
        super().__init__()
        self.models = {**models, "text_encoder": text.encoder}
        self.text, self.checkpoint, self.source = text, checkpoint, source
        self.defaults, self.scheduler = defaults, scheduler
        for model in self.models.values():  # one for all, which work one after the other
            model.arena = self.network.arena
        self.stages = tuple(
            Stage(name, Evaluator(cast(Any, unet))) for name, unet in denoisers.items()
        )

    # --- a subclass's part ------------------------------------------------------------------------

    def _told(
        self,
        course: TwoStageCourse,
        stage: int,
        jobs: Sequence[StagedJob],
        names: tuple[str, ...],
    ) -> Conditions:
        """What a stage's network is told of the jobs. names: of the rows' conditions."""
        raise NotImplementedError

    def _seen(self, latents: Tensor) -> Tensor:
        """[1, 3, height, width] of what is denoised at any stage."""
        raise NotImplementedError

    # --- what it is -------------------------------------------------------------------------------

    @property
    def _class_name(self) -> str:
        return type(self).__name__

    @property
    def network(self) -> Model:
        return self.models[self.main_part]

    @property
    def components(self) -> dict[str, Any]:
        return {**self.models, "tokenizer": self.text.tokenizer, "scheduler": self.scheduler}

    @property
    def clip_tokenizer(self) -> Any:
        return self.text.tokenizer

    @property
    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels, of all pictures."""
        raise NotImplementedError

    # --- arguments --------------------------------------------------------------------------------

    def _checked(self, arguments: dict[str, Any]) -> TwoStageRequest:
        a = arguments
        refuse_others(a["others"], self.__call__)
        if a["prompt"] is None:
            raise checks.refuse("prompt", "a text or a list of texts", None)
        prompts = checks.texts("prompt", a["prompt"])
        negatives = [""] * len(prompts)
        if a["negative_prompt"] is not None:
            negatives = checks.texts("negative_prompt", a["negative_prompt"], len(prompts))
        times = check("num_images_per_prompt", a["num_images_per_prompt"])
        count, (height, width) = len(prompts) * times, self.default_size
        for name, own in (("height", height), ("width", width)):
            if a[name] is not None and checks.side(name, a[name], 1) != own:
                raise checks.refuse(name, f"{own}, the only size of this model, or None", a[name])
        checks.check_total(height, width, count)
        simple = checked({"output_type": a["output_type"]}, self.defaults)
        how = taken(a)
        method = method_of(how, has_negative=a["negative_prompt"] is not None)
        plans = tuple(self._plan(name, a[name], method) for name, _ in self.steps_of)
        scales = tuple(
            () if name is None else self._scales(name, a[name], count, how)
            for _, name in self.steps_of
        )
        method.check([scale for own in scales for scale in own])
        seeds, generators = checks.seeds_and_generators(
            a["seed"], a["generator"], count, self.device
        )
        callback = a["callback_on_step_end"]
        return TwoStageRequest(
            count=count,
            height=height,
            width=width,
            prompts=[text for text in prompts for _ in range(times)],
            negatives=[text for text in negatives for _ in range(times)],
            plans=plans,
            scales=scales,
            method=method,
            output_type=simple["output_type"],
            seeds=seeds,
            generators=generators,
            callback=callback,
            callback_inputs=checks.check_callback(
                callback, a["callback_on_step_end_tensor_inputs"], CALLBACK_TENSORS
            ),
            **checks.manners(a["run"], a["timeout"], a["return_dict"]),
        )

    def _plan(self, name: str, value: Any, method: Method) -> Plan:
        value = getattr(self.defaults, name) if value is None else value
        steps = checks.integer(name, value, 1, 1000)
        plan: Plan = self.scheduler.sampler.plan(num_inference_steps=steps)
        if method.name == "cfg++":
            check_plus_plus(plan)
        return plan

    def _scales(
        self, name: str, value: Any, count: int, how: Mapping[str, Any]
    ) -> tuple[float, ...]:
        value = scale_or_default(how, value, getattr(self.defaults, name))
        return checks.guidance_scales(name, value, count)

    def _method(self, r: TwoStageRequest, stage: int) -> Method:
        """How a stage's pictures are guided."""
        if not r.scales[stage]:
            return Method()
        return r.method if self.negated[stage] else r.method.without_negative

    # --- the run ----------------------------------------------------------------------------------

    def _report(self, r: TwoStageRequest) -> Report:
        scales = {scale for own in r.scales for scale in own}
        return Report(
            model=self.source,
            pipeline=self._class_name,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            sampler=r.plans[0].sampler,
            height=r.height,
            width=r.width,
            guidance_scale=scales.pop() if len(scales) == 1 else r.scales[0],
            weights=self.network.weights,
        )

    def _begin(self, r: TwoStageRequest, report: Report) -> StagedCall[TwoStageRequest]:
        r.run.settings = {"num_timesteps": r.evaluations}
        with report.stage("encode_prompt", self.device):
            texts = {TEXT: r.prompts, NEGATIVE: r.negatives}
            if r.method.three:
                texts[EMPTY] = [""] * r.count
            read = {
                name: Read(*self.text.encode(own, report.warnings)) for name, own in texts.items()
            }
            check_finite(f"{self.source}: text encoder", read[TEXT].hidden, r.count)
        course = TwoStageCourse(self, r, read)
        jobs = [StagedJob(r.run, i, seed, course) for i, seed in enumerate(r.seeds)]
        with report.stage("prepare", self.device):
            enter_stages(jobs)
            for job in jobs:
                job.raise_error()
        return StagedCall(self, r, report, jobs)

    # --- pictures ---------------------------------------------------------------------------------

    def _pixels(self, job: StagedJob) -> Tensor:
        return self._seen(job.latents)

    def _latents(self, job: StagedJob) -> Tensor:
        return job.latents

    def _preview(self, latents: Tensor, output_type: str) -> Any:
        from .. import images as pictures

        if output_type == "latent":
            return latents
        return pictures.from_tensor(torch.cat([self._seen(x[None]) for x in latents]), output_type)
