"""What the pipelines of token models share: a call's arguments, the run around the drawing."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .. import ops
from ..cuda import Record, within_memory
from ..errors import NotFiniteError, RequestError
from ..finite import check_finite, not_finite
from ..models.base import Model
from ..models.kv_cache import KVCache
from ..ops._backend import kernels_used
from ..weights.load import machine_memory
from . import request as checks
from .arguments import bounded
from .diffusers_names.base import DiffusersNames
from .keywords import refuse_others
from .output import PipelineOutput, Report, peak_memory, reset_peak_memory
from .runs import Run, Running

#: What a callback may ask for and give back.
CALLBACK_TENSORS = ("tokens",)
MAX_TEMPERATURE = 100.0
#: The way of drawing tokens one after another that draws other tokens than the rest; see jacobi.py.
OTHER_DRAWS = "jacobi-gumbel"
DECODINGS = ("sequential", "jacobi", OTHER_DRAWS)
MAX_WINDOW = 1 << 16


@dataclass(frozen=True)
class Sampling:
    """How a token is drawn: see pyengine.ops.sample_token."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def rows(self, count: int, guidance_scale: float) -> Tensor:
        """A row of settings for each of `count` pictures, as ops.sample_token takes them."""
        return ops.sampling_settings(
            count, guidance=guidance_scale, temperature=self.temperature, top_k=self.top_k,
            top_p=self.top_p, min_p=self.min_p,
        )  # fmt: skip


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


@dataclass
class TokenRequest:
    """A call's arguments, checked, with defaults filled in.

    prompts: [B], None each where the model takes none; per_prompt: pictures of each, together.
    height, width: pixels. prefix: [count, n] int64, the first tokens of every picture, or None.
    decoding, window: how the model is read; window is at most a picture's tokens.
    """

    prompts: list[str | None]
    negatives: list[str] | None
    per_prompt: int
    height: int
    width: int
    guidance_scale: float
    sampling: Sampling
    output_type: str
    seeds: list[int | None]
    generators: list[torch.Generator] | torch.Generator
    callback: Any = None
    callback_inputs: tuple[str, ...] = CALLBACK_TENSORS
    callback_known: tuple[str, ...] = CALLBACK_TENSORS
    prefix: Tensor | None = None
    decoding: str = "sequential"
    window: int = 1
    extra: dict[str, Any] = field(default_factory=dict)
    run: Run = field(default_factory=Run)
    timeout: float | None = None
    return_dict: bool = True

    @property
    def count(self) -> int:
        return len(self.prompts) * self.per_prompt


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
        from .recorded import TokenGraphs  # which needs this module

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


def check_cache_memory(rows: int, most: int, cache: KVCache) -> None:
    """Raises RequestError where keys and values of `rows` rows of `most` tokens, in layers like
    those of `cache`, are more than the machine has. (On CUDA torch says so itself.)
    """
    if cache.lengths.device.type != "cpu":
        return
    needed = rows * most * sum(t.shape[2] * t.element_size() for t in (*cache.keys, *cache.values))
    memory = machine_memory()
    if memory is not None and needed > memory:
        raise RequestError(
            f"num_images_per_prompt: expected fewer pictures: the keys and values of {rows} rows"
            f" take {needed / 1e9:.1f} GB, this machine has {memory / 1e9:.1f} GB"
        )


def check_logits(logits: Tensor, source: str, step: int) -> None:
    """Raises NotFiniteError for logits [N, ..., K] of which no token can be drawn, naming the
    picture: NaN, infinity, or minus infinity for every token.
    """
    largest = logits.amax(dim=-1)  # NaN where one is
    bad = ~largest.isfinite().view(len(logits), -1).all(dim=1)
    if bad.any():
        found = "NaN" if largest.isnan().any() else "infinity"
        where = f"picture {int(bad.nonzero()[0])} at step {step}"
        raise not_finite(f"{source}: logits", found, where, logits.dtype)


def check_drawn(tokens: Tensor, source: str, pictures: Sequence[int] | None = None,
                first: int = 0) -> None:  # fmt: skip
    """Raises NotFiniteError where ops drew a negative token, which says that logits were at fault.

    tokens: [N, L], of the given pictures, else of 0 to N - 1, drawn at the places from `first` on.
    """
    bad = tokens < 0
    if bad.any():
        row, place = bad.nonzero()[0].tolist()
        picture = row if pictures is None else pictures[row]
        raise NotFiniteError(
            f"{source}: logits: expected finite numbers, found others in picture {picture} at"
            f" token {first + place}"
        )


def check_tokens(field_name: str, value: Any, shape: tuple, codes: int) -> Tensor:
    """`value` as int64 of `shape`, each in 0..codes-1; None in shape: any size of at least 1."""
    try:
        tokens = value if isinstance(value, Tensor) else torch.tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        tokens = None
    wanted = f"whole numbers [{', '.join('n' if s is None else str(s) for s in shape)}]"
    if tokens is None or tokens.is_floating_point() or tokens.is_complex():
        raise checks.refuse(field_name, wanted, value if tokens is None else tokens.dtype)
    fits = tokens.dim() == len(shape) and all(
        s == want or (want is None and s > 0) for s, want in zip(tokens.shape, shape, strict=False)
    )
    if not fits or tokens.dtype == torch.bool:
        raise checks.refuse(field_name, wanted, list(tokens.shape))
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= codes:
        raise checks.refuse(field_name, f"tokens 0 to {codes - 1}", f"{low} to {high}")
    return tokens.to(torch.int64)
