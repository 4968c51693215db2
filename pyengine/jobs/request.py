"""What every call is asked, whatever its pipeline draws."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from .output import PipelineOutput
from .runs import Run

if TYPE_CHECKING:
    from typing_extensions import TypeVar
else:
    from typing import TypeVar


class Enlarger(Protocol):
    """What enlarges a call's pictures: pyengine.pipelines.UpscalePipeline."""

    def check_sizes(self, sizes: list[tuple[int, int]], one_size: bool) -> None:
        """Raises RequestError for pictures, (height, width) each, that are too large."""

    def __call__(
        self, image: Any, /, *, output_type: str = "pil", progress: bool | None = None
    ) -> PipelineOutput: ...


class Heard(Protocol):
    """What `checks.call_back` reads of a request: its run, and what its callback is shown."""

    @property
    def run(self) -> Run: ...

    @property
    def callback(self) -> Callable[..., Any] | None: ...

    @property
    def callback_inputs(self) -> tuple[str, ...]: ...

    @property
    def callback_known(self) -> tuple[str, ...]: ...


class Requested(Heard, Protocol):
    """A checked request, as it is read by what drives jobs of any pipeline: `Pipeline`, `Steps`, an
    engine.

    count: pictures. height, width: in pixels, of the largest. evaluations: of the model, for a
    picture, as far as is known before its plan is made; at least 1.
    """

    upscaler: Enlarger | None

    @property
    def count(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def width(self) -> int: ...

    @property
    def seeds(self) -> list[int | None]: ...

    @property
    def output_type(self) -> str: ...

    @property
    def timeout(self) -> float | None: ...

    @property
    def return_dict(self) -> bool: ...

    @property
    def evaluations(self) -> int: ...


@dataclass(kw_only=True)
class CallRequest:
    """Base of the requests of calls: the arguments that all have, checked.

    seeds: of each picture, None where the caller brought a generator. callback_inputs: names of the
    tensors that the callback is shown; callback_known: of those that it may give back. timeout:
    seconds to wait for the turn. upscaler: what enlarges the pictures that come out.
    A subclass has count, height and width; see Requested.
    """

    output_type: str
    seeds: list[int | None] = field(default_factory=list)
    run: Run = field(default_factory=Run)
    callback: Callable[..., Any] | None = None
    callback_inputs: tuple[str, ...]
    callback_known: tuple[str, ...]
    timeout: float | None = None
    return_dict: bool = True
    upscaler: Enlarger | None = None

    @property
    def evaluations(self) -> int:
        return 1


def expected(plan: Mapping[str, Any], steps: int | None, strength: float | None) -> int:
    """Evaluations of a run whose sampler is told `plan`: as many as are listed there, else steps;
    the share of them that `strength` leaves, at least 1. (Samplers of two a step take more.)
    """
    listed = next((plan[n] for n in ("timesteps", "sigmas") if plan.get(n) is not None), None)
    count = (steps or 1) if listed is None else len(listed)
    return max(1, int(count * (1.0 if strength is None else strength)))


if TYPE_CHECKING:
    #: Whose requests a call or a pipeline has; of one that is not known, any.
    RequestT = TypeVar("RequestT", bound=Requested, default=Any)
else:
    RequestT = TypeVar("RequestT")
