"""What the pipelines share that make a picture in one pass of a generator: requests and jobs."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .. import images as pictures
from ..cuda import to_device
from ..errors import RequestError
from ..finite import all_finite, kind, not_finite
from ..jobs import checks
from ..jobs.job import Call, Job
from ..jobs.noise import NoiseSource
from ..jobs.output import PipelineOutput, Report
from ..jobs.request import CallRequest
from ..jobs.runs import Run
from ..models.base import Model
from .base import NetworkPipeline
from .keywords import refuse_others

#: What a callback may ask for and give back: the pictures [N, C, H, W] in -1..1.
CALLBACK_TENSORS = ("images",)
#: Pixels that one pass makes at most; more pictures than that are made in several.
MAX_PASS_PIXELS = 1 << 20


@dataclass(frozen=True)
class OnePassDefaults:
    """What a call uses where the caller says nothing: nothing that all generators have."""


@dataclass(kw_only=True)
class OnePassRequest(CallRequest):
    """A call's arguments, checked.

    latents: [count, ...] float32, or None: drawn from each picture's own generator. settings: of
    each picture, what the generator is told besides, as the pipeline reads it.
    """

    count: int
    height: int
    width: int
    generators: list[torch.Generator] | torch.Generator
    latents: Tensor | None
    settings: list[Any]
    callback_inputs: tuple[str, ...] = CALLBACK_TENSORS
    callback_known: tuple[str, ...] = CALLBACK_TENSORS


class OnePassJob(Job):
    """A picture that one evaluation makes. latents: float32 [...], its noise; result: [C, H, W]."""

    def __init__(self, run: Run, index: int, seed: int | None, latents: Tensor, settings: Any):
        super().__init__(run, index, seed)
        self.latents, self.settings = latents, settings
        self.result: Tensor | None = None

    @property
    def complete(self) -> bool:
        return self.result is not None

    @property
    def left(self) -> int:
        return int(self.result is None)

    @property
    def shape(self) -> Hashable:
        return tuple(self.latents.shape)


class OnePassCall(Call[OnePassRequest, OnePassJob]):
    """The pictures of one call; its one step makes all of them."""

    stage: ClassVar[str] = "generate"
    title: ClassVar[str] = "passes"

    def __init__(
        self, pipe: "OnePassPipeline", r: OnePassRequest, report: Report, jobs: list[OnePassJob]
    ):
        super().__init__(r, report, jobs)
        self._pipe = pipe

    @property
    def total(self) -> int:
        return 1

    def stepped(self, jobs: Sequence[OnePassJob]) -> int:
        self.raise_error()
        self.report.steps = self.report.evaluations = 1
        if self.request.callback is not None:
            images, _ = self.seen()
            answer = checks.call_back(self._pipe, self.request, 0, 0, {"images": images})
            self._take(answer.get("images"), images)
        return 1

    def seen(self) -> tuple[Tensor, Any]:
        return torch.stack([self._pipe._made(job) for job in self.jobs]), 0

    def _take(self, new: Any, images: Tensor) -> None:
        """The pictures that a callback has given back, or changed in place."""
        new = images if new is None else new
        if not isinstance(new, Tensor) or new.shape != images.shape:
            raise checks.refuse(
                "callback_on_step_end: images",
                f"a tensor {list(images.shape)} back",
                list(getattr(new, "shape", ())),
            )
        for job, row in zip(self.jobs, new.to(images.device, images.dtype), strict=True):
            if job.complete:
                job.result = row


class OnePassPipeline(NetworkPipeline[OnePassRequest, OnePassJob]):
    """Base of the pipelines that make a picture in one pass.

    Made by `pyengine.from_pretrained`. A subclass has `size`, `latent_shape`, `_draw_latents` where
    noise is not plain normal, `_evaluate` and `__call__`.
    """

    defaults_class: ClassVar[type[Any]] = OnePassDefaults
    takes_prompt: ClassVar[bool] = False
    #: What the report calls the way that pictures are made.
    sampler: ClassVar[str] = "one pass"

    def __init__(self, model: Model, checkpoint: Any, source: str, defaults: Any):
        """source: the path or Hub id it was loaded from."""
        super().__init__()
        self.model, self.checkpoint = model, checkpoint
        self.source, self.defaults = source, defaults

    # --- a subclass's part ------------------------------------------------------------------------

    @property
    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels, the only size that the model makes."""
        raise NotImplementedError

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Of one picture's latents."""
        raise NotImplementedError

    def _draw_latents(self, noise: NoiseSource, r: OnePassRequest) -> Tensor:
        """Float32 [N, *latent_shape], each picture's own."""
        return noise.draw((r.count, *self.latent_shape), torch.float32)

    def _evaluate(self, latents: Tensor, settings: list[Any]) -> Tensor:
        """Latents [N, *latent_shape] to pictures [N, C, H, W] in -1..1."""
        raise NotImplementedError

    # --- what it is -------------------------------------------------------------------------------

    @property
    def network(self) -> Model:
        return self.model

    @property
    def components(self) -> dict[str, Any]:
        return {"model": self.model}

    # --- arguments --------------------------------------------------------------------------------

    def _request(
        self,
        count: int,
        settings: list[Any],
        *,
        latents: Any,
        seed: Any,
        generator: Any,
        output_type: Any,
        callback_on_step_end: Any,
        callback_on_step_end_tensor_inputs: Any,
        height: Any,
        width: Any,
        return_dict: Any,
        timeout: Any,
        run: Any,
        others: dict[str, Any],
    ) -> OnePassRequest:
        """The arguments that all have, checked. count: of pictures; others: those that the model
        has not, which must ask for nothing.
        """
        refuse_others(others, self.__call__)
        size = self.default_size
        for name, given, own in zip(("height", "width"), (height, width), size, strict=True):
            if given is not None and checks.integer(name, given, 1, checks.MAX_SIDE) != own:
                raise checks.refuse(name, f"{own}, the model's only one", given)
        checks.check_total(*size, count)
        if latents is not None:
            latents = checks.check_latents(latents, (count, *self.latent_shape)).float()
        seeds, generators = checks.seeds_and_generators(seed, generator, count, self.device)
        return OnePassRequest(
            count=count,
            height=size[0],
            width=size[1],
            output_type=checks.choice("output_type", output_type, checks.OUTPUT_TYPES),
            seeds=seeds,
            generators=generators,
            latents=latents,
            settings=settings,
            callback=callback_on_step_end,
            callback_inputs=checks.check_callback(
                callback_on_step_end, callback_on_step_end_tensor_inputs, CALLBACK_TENSORS
            ),
            **checks.manners(run, timeout, return_dict),
        )

    # --- the run ----------------------------------------------------------------------------------

    def _report(self, r: OnePassRequest) -> Report:
        return Report(
            model=self.source,
            pipeline=self._class_name,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            sampler=self.sampler,
            height=r.height,
            width=r.width,
            guidance_scale=1.0,
            weights=self.model.weights,
        )

    def _begin(self, r: OnePassRequest, report: Report) -> OnePassCall:
        latents = r.latents
        if latents is None:
            latents = self._draw_latents(NoiseSource(r.generators, self.device), r)
        latents = to_device(latents, self.device)
        jobs = [
            OnePassJob(r.run, k, r.seeds[k], latents[k].clone(), r.settings[k])
            for k in range(r.count)
        ]
        return OnePassCall(self, r, report, jobs)

    def _step(self, jobs: Sequence[OnePassJob]) -> None:
        some = max(1, MAX_PASS_PIXELS // (self.default_size[0] * self.default_size[1]))
        for begin in range(0, len(jobs), some):
            self._pass(jobs[begin : begin + some])

    def _pass(self, jobs: Sequence[OnePassJob]) -> None:
        """One evaluation for these; a picture that is not finite is its job's error."""
        latents = torch.stack([job.latents for job in jobs])
        made = self._evaluate(latents, [job.settings for job in jobs])
        finite = all_finite(made)
        for job, picture in zip(jobs, made, strict=True):
            if not finite and not all_finite(picture):
                where = f"picture {job.index}"
                part = f"{self.source}: generator"
                job.error = not_finite(part, kind(picture), where, picture.dtype)
            job.result = picture
            job.evaluations = job.steps = 1

    def _made(self, job: OnePassJob) -> Tensor:
        """[C, H, W] in -1..1: the job's picture, mid-grey where it was cancelled before."""
        if job.result is None:
            return job.latents.new_zeros((3, *self.default_size), dtype=self.dtype)
        return job.result

    def _trim(self) -> None:
        self.model.arena.trim()

    def _picture(self, job: OnePassJob) -> Any:
        if job.request.output_type == "latent":
            return job.latents
        return self._preview(self._made(job)[None], job.request.output_type)[0]

    def _preview(self, images: Tensor, output_type: str) -> Any:
        return pictures.from_tensor(images.expand(-1, 3, -1, -1), output_type)

    def _output(self, call: Call[OnePassRequest, OnePassJob]) -> PipelineOutput:
        r = call.request
        if r.output_type == "latent":
            latents = torch.stack([job.latents for job in call.jobs])
            return PipelineOutput(latents, r.seeds, call.report)
        images, _ = call.seen()
        return PipelineOutput(self._preview(images, r.output_type), r.seeds, call.report)


def count_of(num_images: Any, num_images_per_prompt: Any, latents: Any) -> int:
    """How many pictures: the product of both, or as many as there are latents where neither says.

    Raises RequestError.
    """
    per = checks.integer("num_images_per_prompt", num_images_per_prompt, 1, checks.MAX_PICTURES)
    if num_images is not None:
        return per * checks.integer("num_images", num_images, 1, checks.MAX_PICTURES)
    if isinstance(latents, Tensor) and latents.dim():
        if per != 1:
            raise RequestError(f"num_images_per_prompt: expected 1 beside latents, given {per}")
        return checks.integer("latents", len(latents), 1, checks.MAX_PICTURES)
    return per


def check_own_size(side: int, height: int | None, width: int | None) -> None:
    """Raises RequestError for another size than a generator's own, side x side."""
    for name, value in (("height", height), ("width", width)):
        if value not in (None, side):
            raise RequestError(f"{name}: expected {side}, all that this model makes, given {value}")
