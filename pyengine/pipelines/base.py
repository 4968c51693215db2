"""What every pipeline has: jobs, and the call that drives its own jobs to the end."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar, Generic, TypeVar, cast

import torch
from torch import Tensor

from ..cuda import within_memory
from ..errors import RequestError
from ..guard import inference
from ..jobs import checks
from ..jobs.job import Call, Job, JobT
from ..jobs.output import PipelineOutput, Report
from ..jobs.request import RequestT
from ..jobs.runs import Run, Running
from ..models.base import Model
from ..weights.text import show
from .diffusers_names.base import DiffusersNames
from .kept import Kept
from .steps import Steps
from .upscaling import check_upscaler, find_upscaler, upscaled

T = TypeVar("T")


class Pipeline(DiffusersNames, Running, Generic[RequestT, JobT]):
    """Base of all pipelines: three functions over jobs, and the call, which drives jobs by them.

    A job is one picture in the making (pyengine.jobs.Job). `prepare` makes a call's jobs, `step`
    takes any jobs of this pipeline one model evaluation further, also those of different calls, and
    `finish` makes a job's picture; whoever calls them, a picture's bits are the same. The pipeline
    itself keeps nothing of a run but whose turn it is (see pyengine.jobs.runs). For type checkers
    it is generic over its requests and its jobs; `Pipeline` alone stands for any.

    A subclass has `_checked`, `_begin`, `_step`, `_picture` and `_output`.
    """

    device: torch.device
    dtype: torch.dtype
    #: What its output is, in a word; the command line writes pictures alone.
    makes: ClassVar[str] = "pictures"
    #: CLIP's, where the pipeline has one that a CLIP without its own may borrow.
    clip_tokenizer: Any = None
    #: Another object after the pipeline was moved or got another part: older jobs are not its own.
    _loaded: object = None

    def __init__(self) -> None:
        super().__init__()
        self._kept = Kept()

    @property
    def model_hash(self) -> str:
        """SHA-256 of the weights, hexadecimal; "" where they came from no checkpoint."""
        return "" if self.checkpoint is None else self.checkpoint.model_hash

    # --- a subclass's part ------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> PipelineOutput:
        """Pictures; the arguments are the subclass's, see there."""
        raise NotImplementedError

    def _checked(self, arguments: dict[str, Any]) -> RequestT:
        """The request that a call's arguments make: __call__'s by name, without progress."""
        raise NotImplementedError

    def _report(self, r: RequestT) -> Report:
        """A report of the request r, before anything was done."""
        raise NotImplementedError

    def _begin(self, r: RequestT, report: Report) -> Call[RequestT, JobT]:
        """The jobs of the request r, ready for their first step."""
        raise NotImplementedError

    def _step(self, jobs: Sequence[JobT]) -> None:
        """One model evaluation and update of these jobs, all active and of this pipeline."""
        raise NotImplementedError

    def _picture(self, job: JobT) -> Any:
        """What the job has come to, as the request's output_type has it."""
        raise NotImplementedError

    def _output(self, call: Call[RequestT, JobT]) -> PipelineOutput:
        """The pictures of all of a call's jobs."""
        raise NotImplementedError

    def _tuple(self, output: PipelineOutput) -> Any:
        """What return_dict=False gives."""
        return (output.images,)

    def _preview(self, latents: Tensor, output_type: str) -> Any:
        """Pictures of what a call's `seen` gives."""
        raise NotImplementedError

    def _quick_preview(self, latents: Tensor, output_type: str) -> Any:
        """As `_preview`, coarser, where there is a way that costs less."""
        return self._preview(latents, output_type)

    def _release(self) -> None:
        """Frees what was recorded, where memory does not suffice."""

    def _trim(self) -> None:
        """Gives the memory of activations back to the system."""

    # --- jobs -------------------------------------------------------------------------------------

    @inference
    def request(self, *args: Any, **kwargs: Any) -> RequestT:
        """The checked request of a call with these arguments; progress means nothing here.

        Raises RequestError that names the argument.
        """
        try:
            bound = inspect.signature(type(self).__call__).bind(self, *args, **kwargs)
        except TypeError as e:
            raise RequestError(f"request: {e}") from None
        bound.apply_defaults()
        arguments = dict(bound.arguments)
        arguments.pop("progress", None)
        return self._requested({name: v for name, v in arguments.items() if name != "self"})

    @inference
    def prepare(self, request: RequestT) -> list[JobT]:
        """The jobs of a request, one per picture, ready for their first step: texts are encoded,
        pictures too, and every picture's noise is drawn.

        request: of `request`. Its callback is not called: whoever steps the jobs sees them.
        Warns as the call would. Raises what the call would raise before its first step.
        """
        self._check_request(request)
        report = self._report(request)
        with self._runs.begin(request.run, self.device, request.timeout):
            call = self._within_memory(lambda: self._begun(request, report), request)
        report.warn()
        return call.jobs

    @inference
    def step(self, jobs: Sequence[Job]) -> None:
        """One model evaluation and update of every job that is active; the others stay as they are.

        jobs: of this pipeline, of any calls, each at its own position of its own plan. Jobs that do
        not fit into one evaluation (latents of other shapes, texts of other lengths) are evaluated
        one group after the other. A job that goes wrong has its `error` set, and goes no further.
        """
        if not isinstance(jobs, Iterable):
            raise RequestError(f"jobs: expected a list of jobs, given {show(type(jobs).__name__)}")
        own = [self._own_job("jobs", job) for job in jobs]
        if len(set(map(id, own))) != len(own):
            raise RequestError("jobs: expected each of them once")
        with self._runs.begin(Run(), self.device):
            active = [job for job in own if job.active]
            if active:
                advice = "fewer jobs in a step would help"
                within_memory(lambda: self._step(active), advice, self._release)

    @inference
    def finish(self, job: Job) -> Any:
        """The job's picture: of output_type "pil" a PIL picture, "np" [H, W, 3], "pt" [3, H, W],
        "latent" what its decoder is given. Of a job that was cancelled: what it had come to.

        Raises the job's error, where it has one; RequestError where it is still active.
        """
        own = self._own_job("job", job)
        job.raise_error()
        if job.active:
            raise RequestError("job: expected one that is complete or cancelled, given one that"
                               f" is at step {job.steps}")  # fmt: skip
        with self._runs.begin(Run(), self.device):
            try:
                picture = within_memory(lambda: self._picture(own), "smaller pictures would help",
                                        self._release)  # fmt: skip
                upscaler = job.request.upscaler
                if upscaler is None:
                    return picture
                return upscaled(upscaler, picture, job.request.output_type)
            finally:
                self._trim()

    def steps(self, *args: Any, **kwargs: Any) -> Steps[RequestT, JobT]:
        """A call's steps, to be looked at one by one: `for step in pipe.steps(prompt, seed=1)`.

        Takes the arguments of the call. After the loop, or where it is left, `steps.output` has
        the pictures that the call would give. Between two steps other calls may run.
        """
        return Steps(self, self.request(*args, **kwargs))

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Of the run in progress, for its callback: the pictures in the making."""
        run = self._runs.in_progress()
        return () if run is None else run.jobs

    # --- the call ---------------------------------------------------------------------------------

    def _call(self, arguments: dict[str, Any]) -> Any:
        """arguments: __call__'s, by name (its locals())."""
        names = ("self", "__class__", "progress")
        given = {name: value for name, value in arguments.items() if name not in names}
        return self._generate(self._requested(given), arguments["progress"])

    def _requested(self, given: dict[str, Any]) -> RequestT:
        """The checked request; it has the upscaler of the arguments, or None."""
        upscaler = find_upscaler(given.pop("upscaler", None), self.device, self._kept)
        r = self._checked(given)
        check_upscaler(upscaler, r)
        r.upscaler = upscaler
        return r

    def _generate(self, r: RequestT, show_progress: bool | None) -> Any:
        show_progress = self._shows(show_progress)
        with self._runs.begin(r.run, self.device, r.timeout):
            try:
                run = partial(Steps(self, r).run, show_progress)
                output = self._within_memory(run, r)
            finally:
                self._trim()
        output.report.warn(finished=True)
        return output if r.return_dict else self._tuple(output)

    def _finished(self, call: Call[RequestT, JobT]) -> PipelineOutput:
        """`_output`, and what the request's upscaler makes of its pictures."""
        output, r = self._output(call), call.request
        if r.upscaler is not None:
            with call.report.stage("upscale", self.device):
                output.images = upscaled(r.upscaler, output.images, r.output_type)
        return output

    def _begun(self, r: RequestT, report: Report) -> Call[RequestT, JobT]:
        """`_begin`; the jobs know whose they are."""
        call = self._begin(r, report)
        for job in call.jobs:
            job.owner, job.loaded = self, self._loaded
        return call

    def _within_memory(self, work: Callable[[], T], r: RequestT) -> T:
        return within_memory(work, checks.memory_advice(r), self._release)

    def _check_request(self, request: Any) -> None:
        if not isinstance(getattr(request, "run", None), Run):
            raise RequestError(f"request: expected what pipe.request(...) gives, given"
                               f" {show(type(request).__name__)}")  # fmt: skip

    def _own_job(self, name: str, job: Any) -> JobT:
        """The job, which this pipeline prepared. Raises RequestError for any other."""
        if not isinstance(job, Job):
            raise RequestError(f"{name}: expected what pipe.prepare(...) gives, given"
                               f" {show(type(job).__name__)}")  # fmt: skip
        if job.owner is not self:
            raise RequestError(f"{name}: expected jobs that this pipeline prepared")
        if job.loaded is not self._loaded:
            raise RequestError(f"{name}: expected jobs prepared since the pipeline was moved or got"
                               " another part; prepare them again")  # fmt: skip
        return cast("JobT", job)


class NetworkPipeline(Pipeline[RequestT, JobT]):
    """Base of pipelines of a checkpoint with one network that does most of the work: they compute
    where it does, in its dtype. A subclass has `network` and sets `checkpoint`.
    """

    checkpoint: Any

    @property
    def network(self) -> Model:
        """The part that predicts."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:  # type: ignore[override] # the network's, not set
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        return self.network.dtype
