"""The arguments of `Scheduler.plan`, checked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from ..errors import RequestError
from .config import NoiseConfig

T = TypeVar("T")


def _number(name: str, value: Any, low: float, high: float) -> float:
    ok = isinstance(value, int | float) and not isinstance(value, bool)
    if not (ok and low <= value <= high):
        raise RequestError(
            f"{name}: expected a number from {low:g} to {high:g}, got {value!r:.100}"
        )
    return float(value)


def _count(name: str, value: Any, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
        raise RequestError(f"{name}: expected a whole number from 1 to {high}, got {value!r:.100}")
    return value


def _numbers(name: str, values: Any, least: int, most: int) -> tuple[float, ...]:
    values = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise RequestError(f"{name}: expected a list of numbers, got {values!r:.100}")
    if not least <= len(values) <= most:
        raise RequestError(f"{name}: expected {least} to {most} values, got {len(values)}")
    return tuple(_number(f"{name}[{i}]", v, 0, 1e9) for i, v in enumerate(values))


@dataclass(frozen=True)
class Request:
    """steps: denoising steps of the whole run.  skip: steps left out at its start, for
    image-to-image.  timesteps, sigmas: the caller's own, or None.
    """

    steps: int
    skip: int = 0
    eta: float = 0.0
    timesteps: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    original_inference_steps: int | None = None

    @property
    def remaining(self) -> int:
        return self.steps - self.skip

    def from_start(self, items: Sequence[T], order: int = 1) -> Sequence[T]:
        """The items, one per model evaluation of the whole run, from where this run begins."""
        if self.skip * order >= len(items):
            raise RequestError(f"strength: too small, nothing is left of {self.steps} steps")
        return items[self.skip * order :]

    def refuse_own(self, timesteps: bool = False, sigmas: bool = False) -> None:
        """Raise RequestError for arguments that a sampler has no use for."""
        for name, refused in (("timesteps", timesteps), ("sigmas", sigmas)):
            if refused and getattr(self, name) is not None:
                raise RequestError(f"{name}: this sampler (or its config) does not take any")

    def own_timesteps(self, config: NoiseConfig) -> np.ndarray | None:
        """[steps] int64, the caller's timesteps, or None; sigmas are refused."""
        self.refuse_own(sigmas=True)
        if self.timesteps is None:
            return None
        if any(t != int(t) for t in self.timesteps):
            raise RequestError(f"timesteps: expected whole numbers, got {self.timesteps!r:.100}")
        return np.array(self.timesteps, dtype=np.int64)


def make_request(
    config: NoiseConfig,
    num_inference_steps: int | None,
    strength: float,
    eta: float,
    timesteps: Sequence[float] | None,
    sigmas: Sequence[float] | None,
    original_inference_steps: int | None,
) -> Request:
    """Checks each argument by itself; samplers check them against their config."""
    train = config.num_train_timesteps
    given = [v for v in (num_inference_steps, timesteps, sigmas) if v is not None]
    if len(given) != 1:
        raise RequestError(
            "plan: expected exactly one of num_inference_steps, timesteps and sigmas, "
            f"got {len(given)}"
        )
    if timesteps is not None:
        timesteps = _numbers("timesteps", timesteps, 1, train)
        if any(b >= a for a, b in pairwise(timesteps)):
            raise RequestError(f"timesteps: expected a descending list, got {timesteps!r:.100}")
        steps = len(timesteps)
    elif sigmas is not None:
        sigmas = _numbers("sigmas", sigmas, 2, train + 1)
        if any(b >= a for a, b in pairwise(sigmas)):
            raise RequestError(f"sigmas: expected a descending list, got {sigmas!r:.100}")
        steps = len(sigmas) - 1
    else:
        steps = _count("num_inference_steps", num_inference_steps, train)
    if original_inference_steps is not None:
        _count("original_inference_steps", original_inference_steps, train)
    strength = _number("strength", strength, 0, 1)
    skip = steps - int(steps * strength)
    if skip == steps:
        raise RequestError(
            f"strength: {strength:g} of {steps} steps is less than one step; "
            f"expected at least {math.ceil(1000 / steps) / 1000:g}"
        )
    return Request(
        steps, skip, _number("eta", eta, 0, 1), timesteps, sigmas, original_inference_steps
    )
