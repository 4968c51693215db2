"""What a call gives back: pictures, their seeds, and how they were made."""

import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch


@dataclass
class Report:
    """How a call was carried out.

    model: what was loaded; pipeline: diffusers' name for its kind; device, dtype: of the U-Net.
    weights: "int8" or "fp8" where linear layers of the transformer or the U-Net hold them in 8
    bits, None where all are as stored.
    sampler: its name; steps: denoising steps done, or tokens drawn one after another; evaluations:
    calls of the U-Net or of the transformer.
    decoding: how a model that draws one token after another was read, "sequential" or otherwise;
    tokens: that were drawn, of all pictures; passes: calls of the transformer, for each picture as
    many as it took part in.
    height, width: pixels. guidance_scale, strength: that were used. num_inference_steps, eta: that
    were asked for, of the whole run, or filled in; None for models without.
    loras: of each picture {name: {"weight": of the U-Net, "blocks": {attention: number} where some
    of it have others, "text": of the text encoders, "text_2": of the second where that is another,
    "sha256": of the file, "fused": True where it is merged into the weights, "chosen": True where
    set_adapters chose it}}; [] where none has any.
    embeddings: {token: SHA-256 of the file} of the learnt tokens that the call's texts name.
    seconds: wall clock by stage: "encode_prompt", "encode_image", "denoise" or "draw", "decode",
    "total".
    kernels: which implementation each op ran, {"conv2d": "torch", ...}.
    peak_memory: bytes: on CUDA the most this call had allocated there; on the CPU the largest
    resident size that the process has had so far, None where the system does not tell.
    interrupted: whether a callback (or pipe.interrupt) ended it early; the pictures are then what
    the latents held. stages: of a cascade, each stage's own report. warnings: what was not done as
    asked, such as a prompt that was cut.
    """

    model: str
    pipeline: str
    device: str
    dtype: str
    sampler: str
    height: int
    width: int
    guidance_scale: float | tuple[float, ...]
    strength: float | None = None
    weights: str | None = None
    num_inference_steps: int | None = None
    eta: float | None = None
    loras: list[dict[str, dict[str, Any]]] = field(default_factory=list)
    embeddings: dict[str, str] = field(default_factory=dict)
    steps: int = 0
    evaluations: int = 0
    decoding: str | None = None
    tokens: int = 0
    passes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    kernels: dict[str, str] = field(default_factory=dict)
    peak_memory: int | None = None
    interrupted: bool = False
    warnings: list[str] = field(default_factory=list)
    stages: list["Report"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._issued = 0

    def warn(self, finished: bool = False) -> None:
        """Issues, as UserWarnings, what has come to `warnings` since it was called last.

        Called before the sampling, so that a filter that turns warnings into errors ends the call
        before the work and not after it. finished: there are pictures, which no filter may lose.
        """
        new, self._issued = self.warnings[self._issued :], len(self.warnings)
        issue(new, finished)

    @property
    def tokens_per_pass(self) -> float | None:
        """Of a picture, on average; None for models that do not draw one token after another."""
        return self.tokens / self.passes if self.passes else None

    @contextmanager
    def stage(self, name: str, device: torch.device) -> Iterator[None]:
        """Adds the time that its body takes, on the device too, to seconds[name].

        Args:
            name: of the stage, in `seconds`.
            device: whose work is waited for.
        """
        synchronise(device)
        begin = time.perf_counter()
        try:
            yield
            synchronise(device)
        finally:
            spent = time.perf_counter() - begin
            self.seconds[name] = self.seconds.get(name, 0.0) + spent


#: Set where nobody called who would hear warnings: in an engine's thread. What a stranger's request
#: is warned of, pieces of its prompt, stands in its report alone, and not in a server's log.
UNHEARD: ContextVar[bool] = ContextVar("pyengine_unheard", default=False)


def issue(messages: Iterable[str], finished: bool = False) -> None:
    """UserWarnings in the name of the line that called pyengine; finished: see Report.warn."""
    if UNHEARD.get():
        return
    for message in messages:
        try:
            warnings.warn(message, stacklevel=_callers_level())
        except Warning:
            if not finished:
                raise


def _callers_level() -> int:
    """The stacklevel, for warnings.warn in the function that asks, of who called pyengine."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == "pyengine":
        level, frame = level + 1, frame.f_back
    return level


@dataclass(eq=False)
class PipelineOutput(Mapping[str, Any]):
    """images: by output_type a list of PIL pictures, an array [N, H, W, 3] or a tensor [N, 3, H, W]
    in [0, 1], or latents [N, C, h, w]. seeds: one per picture; None where a generator was given.
    tokens: of token models, [N, h, w] int64, -1 where a run that was stopped had drawn none.

    As diffusers' outputs it is also read as output[0], output["images"], dict(output) and
    output.to_tuple(), which hold images alone; nsfw_content_detected is None: no checker is run.
    """

    images: Any
    seeds: list[int | None]
    report: Report
    tokens: torch.Tensor | None = None

    #: diffusers' name for what a safety checker found.
    nsfw_content_detected: ClassVar[None] = None
    __hash__ = object.__hash__

    def to_tuple(self) -> tuple[Any]:
        """(images,), as diffusers' outputs have it."""
        return (self.images,)

    def __getitem__(self, key: Any) -> Any:
        """By position or slice of `to_tuple`, or any field by its name."""
        if isinstance(key, str):
            if key not in self.__dataclass_fields__:
                raise KeyError(key)
            return getattr(self, key)
        return self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("images",))

    def __len__(self) -> int:
        return 1

    def __eq__(self, other: object) -> bool:
        return self is other


@dataclass(eq=False)
class TokenOutput(PipelineOutput):
    """As PipelineOutput, of a model that draws tokens, which it always has."""

    tokens: torch.Tensor


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """See Report.peak_memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024
