"""What the pipelines of token models share: a call's arguments, the run around the drawing."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..cuda import Record, within_memory
from ..decoding.request import (
    CALLBACK_TENSORS,
    DECODINGS,
    MAX_TEMPERATURE,
    MAX_WINDOW,
    Sampling,
    TokenRequest,
)
from ..finite import check_finite
from ..jobs import checks
from ..jobs.output import PipelineOutput, Report, peak_memory, reset_peak_memory
from ..jobs.runs import Running
from ..models.base import Model
from ..ops._backend import kernels_used
from .defaults import bounded
from .diffusers_names.base import DiffusersNames
from .keywords import refuse_others


@dataclass(frozen=True)
class TokenDefaults:
    """What a call uses where the caller says nothing; a checkpoint's pyengine.json may say more."""

    guidance_scale: float = bounded(1.0, 0, 1000)
    temperature: float = bounded(1.0, 0, MAX_TEMPERATURE)
    top_k: int = bounded(0, 0, 1 << 20)
    top_p: float = bounded(1.0, 0, 1)
    min_p: float = bounded(0.0, 0, 1)
    decoding: Literal["sequential", "jacobi"] = "sequential"
    window: int = bounded(8, 1, MAX_WINDOW)

    def sampling(self, temperature: Any, top_k: Any, top_p: Any, min_p: Any) -> Sampling:
        """The four arguments of a call, checked; None stands for the default."""
        return Sampling(
            self.temperature if temperature is None
            else checks.real("temperature", temperature, 0, MAX_TEMPERATURE),
            self.top_k if top_k is None else checks.integer("top_k", top_k, 0, 1 << 20),
            self.top_p if top_p is None else checks.real("top_p", top_p, 0, 1),
            self.min_p if min_p is None else checks.real("min_p", min_p, 0, 1),
        )  # fmt: skip


class TokenPipeline(DiffusersNames, Running):
    """Base of the pipelines that draw a picture's tokens and decode them.

    Made by `pyengine.from_pretrained`. One call runs at a time; others wait.
    A subclass has `default_size`, `_draw` and `_decode`.
    """

    defaults_class: ClassVar[type[TokenDefaults]] = TokenDefaults
    #: How the report calls the way that tokens are drawn.
    sampler: ClassVar[str] = "autoregressive"
    #: Whether a call needs a prompt.
    takes_prompt: ClassVar[bool] = True
    #: [M, tokens of a picture] int64: pictures that guesses are taken from, see drafts.py.
    drafts: Tensor | None = None

    def __init__(self, model: Model, checkpoint: Any, source: str, defaults: TokenDefaults):
        """model: the one that predicts tokens. source: the path or Hub id it was loaded from."""
        super().__init__()
        self.model, self.checkpoint = model, checkpoint
        self.source, self.defaults = source, defaults
        #: CUDA graphs of what a loop does over and over; None elsewhere.
        self.graphs: Any = None
        if model.device.type == "cuda":
            self.use_graphs()

    @property
    def model_hash(self) -> str:
        """SHA-256 of the weights, hexadecimal."""
        return self.checkpoint.model_hash

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    @property
    def default_size(self) -> tuple[int, int]:
        """(height, width) in pixels that the model was trained for."""
        raise NotImplementedError

    # --- a subclass's part ------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> PipelineOutput:
        """Pictures, one per prompt and num_images_per_prompt; the arguments are the subclass's."""
        raise NotImplementedError

    @property
    def components(self) -> dict[str, Any]:
        """{name: part}: the model, and what else the checkpoint brings."""
        parts = getattr(self, "parts", None)
        if parts is not None:
            return {name: value for name, value in vars(parts).items() if value is not None}
        found = {"model": self.model, "tokenizer": getattr(self, "tokenizer", None)}
        return {name: value for name, value in found.items() if value is not None}

    def _draw(self, r: TokenRequest, report: Report, show_progress: bool | None) -> Tensor:
        """[N, h, w] int64, -1 where the run was stopped before a token was drawn."""
        raise NotImplementedError

    def _decode(self, tokens: Tensor, output_type: str) -> Any:
        """Pictures of `output_type`, one of "pil", "np" and "pt", for tokens [N, h, w]."""
        raise NotImplementedError

    # --- a call's arguments -----------------------------------------------------------------------

    def _request(
        self, *, prompt, num_images_per_prompt, size, guidance_scale, sampling, seed, generator,
        output_type, callback_on_step_end, callback_on_step_end_tensor_inputs, others,
        return_dict, timeout, run, negative_prompt=None, decoding=None, window=None,
    ) -> TokenRequest:  # fmt: skip
        """The arguments that all have, checked. size: (height, width). others: those that the
        model has not, which must ask for nothing.
        """
        refuse_others(others, self.__call__)
        prompts = checks.texts("prompt", prompt) if self.takes_prompt else [None]
        negatives = None
        if negative_prompt is not None:
            negatives = checks.texts("negative_prompt", negative_prompt, len(prompts))
        per_prompt = checks.integer(
            "num_images_per_prompt", num_images_per_prompt, 1, checks.MAX_PICTURES
        )
        count = len(prompts) * per_prompt
        checks.check_total(*size, count)
        seeds, generators = checks.seeds_and_generators(seed, generator, count, self.device)
        default = self.defaults
        return TokenRequest(
            prompts=prompts,
            negatives=negatives,
            per_prompt=per_prompt,
            height=size[0],
            width=size[1],
            guidance_scale=default.guidance_scale if guidance_scale is None else checks.real(
                "guidance_scale", guidance_scale, 0, checks.MAX_GUIDANCE
            ),
            sampling=sampling,
            output_type=checks.choice("output_type", output_type, checks.OUTPUT_TYPES),
            seeds=seeds,
            generators=generators,
            decoding=default.decoding if decoding is None else checks.choice(
                "decoding", decoding, DECODINGS
            ),
            window=default.window if window is None else checks.integer(
                "window", window, 1, MAX_WINDOW
            ),
            callback=callback_on_step_end,
            callback_inputs=checks.check_callback(
                callback_on_step_end, callback_on_step_end_tensor_inputs, CALLBACK_TENSORS
            ),
            **checks.manners(run, timeout, return_dict),
        )  # fmt: skip

    def _check_size(self, height: Any, width: Any) -> None:
        """For a model that draws `default_size` only."""
        for name, given, own in zip(
            ("height", "width"), (height, width), self.default_size, strict=True
        ):
            if given is not None and checks.integer(name, given, 1, checks.MAX_SIDE) != own:
                raise checks.refuse(name, f"{own}, the model's only one", given)

    # --- the run ----------------------------------------------------------------------------------

    def _generate(self, r: TokenRequest, show_progress: bool | None) -> PipelineOutput:
        show_progress = self._shows(show_progress)
        with self._runs.begin(r.run, self.device, r.timeout):
            output = within_memory(
                lambda: self._run(r, show_progress), checks.memory_advice(r), self._release
            )
        output.report.warn(finished=True)
        return output if r.return_dict else (output.images,)  # type: ignore[return-value]

    def use_graphs(self, record: Record | None = None) -> None:
        """A token is a CUDA graph from now on. record: given for tests."""
        from ..decoding.recorded import TokenGraphs  # which needs this module

        self.graphs = TokenGraphs(record)

    def _release(self) -> None:
        if self.graphs is not None:
            self.graphs.clear()

    def _pictures(self, decoded: Tensor) -> Tensor:
        """`decoded`, which raises NotFiniteError if it is no pictures."""
        check_finite(f"{self.source}: the decoder of tokens", decoded)
        return decoded

    def _run(self, r: TokenRequest, show_progress: bool | None) -> PipelineOutput:
        report = Report(
            model=self.source,
            pipeline=self.checkpoint.pipeline_class,
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            sampler=self.sampler,
            height=r.height,
            width=r.width,
            guidance_scale=r.guidance_scale,
            weights=self.model.weights,
        )
        reset_peak_memory(self.device)
        with kernels_used() as used, report.stage("total", self.device):
            tokens = self._draw(r, report, show_progress)
            with report.stage("decode", self.device):
                latent = r.output_type == "latent"
                images = tokens if latent else self._decode(tokens, r.output_type)
        report.peak_memory = peak_memory(self.device)
        report.kernels = used.summary()
        return PipelineOutput(images, r.seeds, report, tokens)

    def _call_back(self, r: TokenRequest, step: int, timestep: int, tokens: Tensor) -> Tensor:
        """The tokens after the callback has seen them; on StopSampling, as they were."""
        answer = checks.call_back(self, r, step, timestep, {"tokens": tokens})
        new = answer.get("tokens", tokens)
        shaped = isinstance(new, Tensor) and new.shape == tokens.shape
        if not shaped or new.is_floating_point():
            raise checks.refuse("callback_on_step_end: tokens",
                                f"an integer tensor {list(tokens.shape)} back",
                                getattr(new, "shape", new))  # fmt: skip
        return new.to(tokens.device, torch.int64)
