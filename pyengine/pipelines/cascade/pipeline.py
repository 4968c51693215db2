"""Several pipelines as one: each stage's picture is the next one's.

Ho et al. 2022, arXiv:2106.15282: cascades of diffusion models, the later ones for resolution.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor

from ... import images as pictures
from ...errors import PyengineError, RequestError
from ...guard import inference
from ...jobs import checks
from ...jobs.job import Job
from ...jobs.output import PipelineOutput, Report
from ...jobs.runs import Run
from ...weights.text import show
from ..base import Pipeline
from .asked import folded, parameters, read_stages, share_strength, shared
from .job import CALLBACK_TENSORS, CascadeCall, CascadeJob, CascadeRequest, set_error
from .texts import encoded


@dataclass(frozen=True)
class CascadeDefaults:
    """What a call uses where the caller says nothing: each stage has defaults of its own."""


class CascadePipeline(Pipeline[CascadeRequest, CascadeJob]):
    """Several pipelines as one; made by `pyengine.cascade`. See `__call__`."""

    defaults_class: ClassVar[type[Any]] = CascadeDefaults
    defaults = CascadeDefaults()

    def __init__(self, stages: Sequence[Any]):
        """stages: pipelines; all but the first take a picture, `image`."""
        super().__init__()
        self.stages = tuple(stages)
        _check(self.stages)
        self.source = " + ".join(stage.source for stage in self.stages)

    # --- what it is -------------------------------------------------------------------------------

    @property
    def takes_prompt(self) -> bool:
        """Whether a stage reads a text."""
        return any("prompt" in parameters(stage) for stage in self.stages)

    @property
    def _class_name(self) -> str:
        return "CascadePipeline"

    @property
    def model_hash(self) -> str:
        """SHA-256 of the stages' hashes, hexadecimal."""
        hashes = "".join(stage.model_hash for stage in self.stages)
        return hashlib.sha256(hashes.encode()).hexdigest()

    @property
    def device(self) -> torch.device:  # type: ignore[override] # the first stage's, not set
        found: torch.device = self.stages[0].device
        return found

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        found: torch.dtype = self.stages[0].dtype
        return found

    @property
    def components(self) -> dict[str, Any]:
        return {
            f"{k}.{name}": part
            for k, stage in enumerate(self.stages, 1)
            for name, part in stage.components.items()
        }

    def to(self, *args: Any, **keywords: Any) -> "CascadePipeline":
        """Every stage's `to`."""
        for stage in self.stages:
            stage.to(*args, **keywords)
        return self

    def save_pretrained(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: its stages are folders of their own."""
        raise RequestError(
            "save_pretrained: save each of the cascade's stages:"
            " pipe.stages[0].save_pretrained(folder)"
        )

    def folded(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """A call's arguments with those of stages in `stages`, as JSON text."""
        return folded(call, self.stages)

    # --- the call ---------------------------------------------------------------------------------

    @inference
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        stages: Sequence[Mapping[str, Any]] | str | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        *,
        image: Any = None,
        mask_image: Any = None,
        strength: float | None = None,
        class_labels: Any = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        scheduler: str | None = None,
        seed: int | Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        upscaler: Any = None,
        callback_on_step_end: Callable[..., Any] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = CALLBACK_TENSORS,
        progress: bool | None = None,
        timeout: float | None = None,
        run: Run | None = None,
        **others: Any,
    ) -> PipelineOutput:
        """The last stage's pictures.

        Args:
            prompt: one text or B of them, for every stage that reads one.
            stages: what each stage is told besides: a list of dicts of arguments of its call, or
                JSON of such a list; it may be shorter than the stages.
            negative_prompt: one for all, or one per prompt, for every stage that takes one.
            num_images_per_prompt: pictures of a prompt follow each other.
            image, mask_image, strength: what the first stage begins from; a further stage that
                takes original_image gets these too (DeepFloyd IF). One picture for all, one per
                prompt, or one per picture.
            class_labels: of the first stage, one for all or one per prompt.
            num_inference_steps, guidance_scale, scheduler: of every stage that has it; so are all
                other arguments of stages' calls, but height and width, which are the first's. What
                `stages` says of one goes before.
            seed: s gives picture i the seed s + i; a list one each; None random ones, which the
                result tells.
            generator: one per picture. A picture's stages draw from it one after the other, as a
                script does that gives one generator to several of diffusers' pipelines.
            output_type: "pil", "np" or "pt" (0 to 1).
            return_dict: False gives a tuple in place of a PipelineOutput.
            upscaler: a file or folder of one, or an UpscalePipeline, which enlarges the pictures.
            callback_on_step_end: called as (pipe, step, timestep, {"latents": tensor}) after every
                evaluation, with what the stage works on, to look at.
            callback_on_step_end_tensor_inputs: what of these it is given: latents.
            progress: a bar on standard error; None shows one on a terminal.
            timeout: seconds to wait for calls of other threads, then BusyError.
            run: a Run, to end this call from elsewhere; the pictures are then the stage's that they
                had come to.

        A picture does not depend on the others in the call. Every stage's arguments are checked
        before the first begins. Raises RequestError that names the argument.
        """
        output: PipelineOutput = self._call(locals())
        return output

    # --- arguments --------------------------------------------------------------------------------

    def _checked(self, arguments: dict[str, Any]) -> CascadeRequest:
        a = dict(arguments)
        stages = read_stages(a.pop("stages"), self.stages)
        times = checks.integer("num_images_per_prompt", a.pop("num_images_per_prompt"), 1, 1024)
        each = self._pictures(a.pop("prompt"), a.pop("negative_prompt"), a.pop("class_labels"))
        each = [row for row in each for _ in range(times)]
        begin = self._begins(a, len(each), len(each) // times)
        callback, inputs = (
            a.pop("callback_on_step_end"),
            a.pop("callback_on_step_end_tensor_inputs"),
        )
        seeds, generators = checks.seeds_and_generators(
            a.pop("seed"), a.pop("generator"), len(each), self.device
        )
        if isinstance(generators, torch.Generator):
            if len(each) > 1:
                raise RequestError(
                    f"generator: expected one for each of {len(each)} pictures, given one for all"
                )
            generators = [generators]
        r = CascadeRequest(
            pictures=each,
            stages=stages,
            sizes=[],
            units=[],
            guided=[],
            begin=begin,
            output_type=checks.choice("output_type", a.pop("output_type"), ("pil", "np", "pt")),
            seeds=seeds,
            generators=generators,
            callback=callback,
            callback_inputs=checks.check_callback(callback, inputs, CALLBACK_TENSORS),
            **checks.manners(a.pop("run"), a.pop("timeout"), a.pop("return_dict")),
        )
        share_strength(a.pop("strength"), "image" in begin[0], stages, self.stages)
        shared({**a.pop("others"), **a}, stages, self.stages)
        self._check_stages(r)
        return r

    def _pictures(self, prompt: Any, negative: Any, classes: Any) -> list[dict[str, Any]]:
        """What each prompt's picture is told, by the arguments' names."""
        if not self.takes_prompt:
            for name, value in (("prompt", prompt), ("negative_prompt", negative)):
                if value is not None:
                    raise RequestError(f"{name}: no stage reads a text, given {show(value)}")
            if classes is None:
                return [{}]
            if "class_labels" not in parameters(self.stages[0]):
                raise RequestError("class_labels: the first stage has no such argument")
            several = hasattr(classes, "__len__") and not isinstance(classes, str)
            items = list(classes) if several else [classes]
            checks.integer("class_labels: how many", len(items), 1, checks.MAX_PICTURES)
            return [{"class_labels": item} for item in items]
        if classes is not None:
            raise RequestError(f"class_labels: expected none beside prompt, given {show(classes)}")
        if prompt is None:
            raise checks.refuse("prompt", "a text or a list of texts", None)
        texts = checks.texts("prompt", prompt)
        rows: list[dict[str, Any]] = [{"prompt": text} for text in texts]
        if negative is not None:
            for row, text in zip(
                rows, checks.texts("negative_prompt", negative, len(texts)), strict=True
            ):
                row["negative_prompt"] = text
        return rows

    def _begins(self, a: dict[str, Any], count: int, batch: int) -> list[dict[str, Any]]:
        """Of each picture, what its first stage begins from, by the arguments' names."""
        image, mask = a.pop("image"), a.pop("mask_image")
        begin: list[dict[str, Any]] = [{} for _ in range(count)]
        for name, value in (("image", image), ("mask_image", mask)):
            if value is None:
                continue
            if name not in parameters(self.stages[0]):
                raise RequestError(
                    f"{name}: the first stage, {self.stages[0]._class_name}, takes none"
                )
            items = pictures.as_list(value, name, grey=name == "mask_image")
            if len(items) not in (1, batch, count):
                raise checks.refuse(name, f"1, {batch} or {count} pictures", len(items))
            for i in range(count):
                begin[i][name] = items[i * len(items) // count]
        return begin

    def _check_stages(self, r: CascadeRequest) -> None:
        """Every stage's request, with a grey picture for what the stage before is going to make."""
        grey: Tensor | None = None
        for k, stage in enumerate(self.stages):
            asked = self._stage_request(r, k, 0, grey, torch.Generator())
            size = asked.height, asked.width
            r.sizes.append(size)
            r.units.append(asked.evaluations)
            scales = getattr(asked, "guidance_scale", 1.0)
            r.guided.append(max(scales if isinstance(scales, tuple) else (scales,)) > 1)
            checks.check_total(*size, r.count)
            grey = torch.full((3, *size), 0.5)
            if k and stage.device.type != self.device.type:
                raise RequestError(
                    f"stages: {k + 1} is on {stage.device}, the first on {self.device}"
                )

    def _stage_request(
        self,
        r: CascadeRequest,
        k: int,
        i: int,
        image: Tensor | None,
        generator: torch.Generator,
        texts: Mapping[str, Tensor] | None = None,
    ) -> Any:
        """Stage k's request of picture i. image: [3, H, W] in 0..1, what the stage before made.
        texts: the prompt's embeddings, in its place.
        """
        stage = self.stages[k]
        known = parameters(stage)
        call = {"generator": generator, "output_type": "pt", **r.stages[k]}
        own = {**r.pictures[i], **(texts or {})}
        if texts:
            own = {name: value for name, value in own.items() if not name.endswith("prompt")}
        call |= {name: value for name, value in own.items() if name in known}
        if image is None:
            call |= r.begin[i]
        else:
            call["image"] = image
            if "original_image" in known and r.begin[i]:
                renamed = {"image": "original_image"}
                call |= {renamed.get(name, name): value for name, value in r.begin[i].items()}
        try:
            return stage.request(**call)
        except RequestError as e:
            where = f"stage {k + 1}: " if len(self.stages) > 1 else ""
            raise type(e)(f"{where}{e}") from None

    # --- the run ----------------------------------------------------------------------------------

    def _report(self, r: CascadeRequest) -> Report:
        return Report(
            model=self.source,
            pipeline=self._class_name,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            sampler="",
            height=r.height,
            width=r.width,
            guidance_scale=1.0,
        )

    def _begin(self, r: CascadeRequest, report: Report) -> CascadeCall:
        with report.stage("encode_prompt", self.device):
            texts = encoded(self.stages, r, report.warnings)
        jobs = [
            CascadeJob(r.run, i, r.seeds[i], r.units, r.generators[i], texts[i])
            for i in range(r.count)
        ]
        for job in jobs:
            job.request = r
            self._advance(job, None)
        return CascadeCall(self, r, report, jobs)

    def _advance(self, job: CascadeJob, image: Tensor | None) -> None:
        """Prepares the next stage's job."""
        r, k = job.request, job.stage + 1
        stage, texts = self.stages[k], job.texts[k]
        asked = self._stage_request(r, k, job.index, image, job.generator, texts)
        report = stage._report(asked)
        with stage._runs.begin(asked.run, stage.device):
            call = stage._within_memory(lambda: stage._begun(asked, report), asked)
        job.begin(call, report)

    def _step(self, jobs: Sequence[Job]) -> None:
        own = [job for job in jobs if isinstance(job, CascadeJob)]
        for job in own:
            if job.inner.complete:
                self._go_on(job)
        for k, stage in enumerate(self.stages):
            here = [job for job in own if job.stage == k and job.error is None]
            if here:
                stage.step([job.inner for job in here])
            for job in here:
                job.count()

    def _go_on(self, job: CascadeJob) -> None:
        """The stage's picture is decoded, and the next stage begins with it."""
        try:
            self._advance(job, self.stages[job.stage].finish(job.inner))
        except PyengineError as e:
            set_error(job, e)

    def _made(self, job: Job) -> Tensor:
        """[3, H, W] in 0..1: the picture of the stage that the job has come to."""
        assert isinstance(job, CascadeJob)  # of this pipeline
        job.inner.cancel()  # means nothing to one that is complete
        made: Tensor = self.stages[job.stage].finish(job.inner)
        return made

    def _picture(self, job: Job) -> Any:
        return pictures.from_unit(self._made(job)[None], job.request.output_type)[0]

    def _output(self, call: Any) -> PipelineOutput:
        made = [self._made(job) for job in call.jobs]
        r, report = call.request, call.report
        with report.stage("decode", self.device):
            if r.output_type == "pil":
                shown: Any = [pictures.from_unit(one[None], "pil")[0] for one in made]
            else:  # where the call was ended, some may be of an earlier stage
                most = max(tuple(one.shape[1:]) for one in made)
                rows = torch.cat([pictures.to_size(one[None], *most) for one in made])
                shown = pictures.from_unit(rows, r.output_type)
        return PipelineOutput(shown, r.seeds, report)

    def _preview(self, images: Tensor, output_type: str) -> Any:
        return pictures.from_unit(images, output_type)

    def _release(self) -> None:
        for stage in self.stages:
            stage._release()

    def _trim(self) -> None:
        for stage in self.stages:
            stage._trim()


def _check(stages: Sequence[Any]) -> None:
    """Raises RequestError where these cannot follow each other."""
    if not 1 <= len(stages) <= MAX_STAGES:
        raise checks.refuse("stages", f"1 to {MAX_STAGES} pipelines", f"{len(stages)} of them")
    for k, stage in enumerate(stages, 1):
        if not isinstance(stage, Pipeline) or isinstance(stage, CascadePipeline):
            raise checks.refuse(f"stages: {k}", "a pipeline, a folder, a file or a Hub id", stage)
        if stage.makes != "pictures":
            raise RequestError(
                f"stages: {k}: a {stage._class_name} makes {stage.makes}, not pictures"
            )
        if k > 1 and "image" not in parameters(stage):
            raise RequestError(
                f"stages: {k}: a {stage._class_name} takes no picture, and is no"
                " stage after another"
            )
    if len({id(stage) for stage in stages}) != len(stages):
        raise RequestError("stages: expected each pipeline once")


#: That one cascade has at most.
MAX_STAGES = 8
