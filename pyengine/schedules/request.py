"""The arguments of `Scheduler.plan`, checked."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..errors import RequestError
from ..weights.text import show
from .config import SamplerConfig


def _number(name: str, value: Any, low: float, high: float) -> float:
    ok = isinstance(value, int | float) and not isinstance(value, bool)
    if not (ok and low <= value <= high):
        raise RequestError(f"{name}: expected a number from {low:g} to {high:g}, got {show(value)}")
    return float(value)


def _count(name: str, value: Any, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high:
        raise RequestError(f"{name}: expected a whole number from 1 to {high}, got {show(value)}")
    return value


def _numbers(name: str, values: Any, least: int, most: int) -> tuple[float, ...]:
    values = values.tolist() if hasattr(values, "tolist") else values
    if not isinstance(values, Sequence) or isinstance(values, str | bytes | bytearray):
        raise RequestError(f"{name}: expected a list of numbers, got {show(values)}")
    if not least <= len(values) <= most:
        raise RequestError(f"{name}: expected {least} to {most} values, got {len(values)}")
    return tuple(_number(f"{name}[{i}]", v, 0, 1e9) for i, v in enumerate(values))


def _share(name: str, value: Any, closed: bool) -> float | None:
    """A share of the run that is left out at an end: above 0 and below 1, or 1 where `closed`."""
    if value is None:
        return None
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and 0 < value <= 1 and (closed or value < 1)):
        most = "at most" if closed else "below"
        raise RequestError(f"{name}: expected a number above 0 and {most} 1, got {show(value)}")
    return float(value)


@dataclass(frozen=True)
class Request:
    """steps: denoising steps of the whole run.  strength: the share of them that runs, from the
    end.  thins: strength thins the timesteps instead, and all steps run.  timesteps, sigmas: the
    caller's own, or None.  denoising_start, denoising_end: the share of the training timesteps at
    which the run begins and ends, or None.  use_clipped_model_output: DDIM's noise is what is left
    of x beside the clipped clean sample, not what the model says.
    """

    steps: int
    strength: float = 1.0
    eta: float = 0.0
    timesteps: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    original_inference_steps: int | None = None
    thins: bool = False
    denoising_start: float | None = None
    denoising_end: float | None = None
    use_clipped_model_output: bool = False

    def begin(self, timesteps: Sequence[float], config: SamplerConfig, order: int = 1) -> int:
        """The evaluation at which the run begins.

        timesteps: of every evaluation of the whole run.  order: evaluations of a step.
        """
        if self.denoising_start is not None:
            cutoff = self.cutoff(self.denoising_start, config)
            left = sum(t < cutoff for t in timesteps)
            # A step of two evaluations begins at its first, and the last step has one.
            left += order == 2 and left % 2 == 0
            if left == 0:
                raise RequestError(
                    f"denoising_start: nothing is left of {self.steps} steps after "
                    f"{self.denoising_start:g} of the run"
                )
            return len(timesteps) - left
        if self.thins and self.timesteps is None:
            return 0
        # diffusers counts the evaluations where the caller gives their timesteps.
        steps = self.steps if self.timesteps is self.sigmas is None else len(timesteps)
        skip = (steps - int(steps * self.strength)) * order
        if skip >= min(steps * order, len(timesteps)):
            raise RequestError(
                f"strength: {self.strength:g} of {steps} steps is less than one step; "
                f"expected at least {math.ceil(1000 / steps) / 1000:g}"
            )
        return skip

    @staticmethod
    def cutoff(share: float, config: SamplerConfig) -> int:
        """The training timestep at which a share of the run is done."""
        train = config.num_train_timesteps
        return round(train - share * train)

    def refuse_own(self, timesteps: bool = False, sigmas: bool = False) -> None:
        """Raise RequestError for arguments that a config's options leave no use for."""
        for name, refused in (("timesteps", timesteps), ("sigmas", sigmas)):
            if refused and getattr(self, name) is not None:
                raise RequestError(f"{name}: this sampler (or its config) does not take any")

    def own_timesteps(self) -> np.ndarray | None:
        """[steps] int64, the caller's timesteps, or None."""
        if self.timesteps is None:
            return None
        if any(t != int(t) for t in self.timesteps):
            raise RequestError(f"timesteps: expected whole numbers, got {self.timesteps!r:.100}")
        return np.array(self.timesteps, dtype=np.int64)


def make_request(
    config: SamplerConfig,
    num_inference_steps: int | None,
    *,
    strength: float,
    eta: float,
    timesteps: Sequence[float] | None,
    sigmas: Sequence[float] | None,
    original_inference_steps: int | None,
    all_steps: bool,
    denoising_start: float | None,
    denoising_end: float | None,
    use_clipped_model_output: bool,
) -> Request:
    """Checks each argument by itself; samplers check them against their config."""
    steps, timesteps, sigmas = _length(config, num_inference_steps, timesteps, sigmas)
    if original_inference_steps is not None:
        _count("original_inference_steps", original_inference_steps, config.num_train_timesteps)
    if all_steps and not config.thins:
        raise RequestError("all_steps: only LCM and TCD thin their timesteps by strength")
    start = _share("denoising_start", denoising_start, closed=False)
    end = _share("denoising_end", denoising_end, closed=True)
    if start is not None and end is not None and start >= end:
        raise RequestError(
            f"denoising_start: expected less than denoising_end {end:g}, got {start:g}"
        )
    return Request(
        steps=steps,
        strength=_number("strength", strength, 0, 1),
        eta=_number("eta", eta, 0, 1),
        timesteps=timesteps,
        sigmas=sigmas,
        original_inference_steps=original_inference_steps,
        thins=all_steps,
        denoising_start=start,
        denoising_end=end,
        use_clipped_model_output=use_clipped_model_output,
    )


def _length(
    config: SamplerConfig,
    num_inference_steps: int | None,
    timesteps: Sequence[float] | None,
    sigmas: Sequence[float] | None,
) -> tuple[int, tuple[float, ...] | None, tuple[float, ...] | None]:
    """Steps of the run, and what was given in their place, checked."""
    train = config.num_train_timesteps
    given = [v for v in (num_inference_steps, timesteps, sigmas) if v is not None]
    if len(given) != 1:
        raise RequestError(
            "plan: expected exactly one of num_inference_steps, timesteps and sigmas, "
            f"got {len(given)}"
        )
    if timesteps is not None:
        own = _numbers("timesteps", timesteps, 1, train)
        _descending("timesteps", own)
        return len(own), own, None
    if sigmas is not None:
        own = _numbers("sigmas", sigmas, 2, train + 1)
        _descending("sigmas", own)
        return len(own) - 1, None, own
    return _count("num_inference_steps", num_inference_steps, train), None, None


def _descending(name: str, values: tuple[float, ...]) -> None:
    if any(b >= a for a, b in pairwise(values)):
        raise RequestError(f"{name}: expected a descending list, got {show(values)}")
