"""What every training stage uses: random numbers, checkpoints, averages, log.

Random numbers of step n are a function of (seed, stage, n), so that a resumed
run has the same bits as an uninterrupted one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..errors import CheckpointError
from . import parallel

STAGES = {
    "autoencoder": 1,
    "decoder": 2,
    "denoiser": 3,
    "sample": 4,
    "vq": 5,
    "codes": 6,
    "gpt": 7,
    "views": 8,
    "texts": 9,
    "one-shot": 10,
    "vae": 11,
    "gan": 12,
    "flow": 13,
    "pixels": 32,
    "ddpm": 15,
    "cascade": 16,
    "prior": 17,
    "masked": 31,
    "clip": 19,
    "classifier": 20,
}


def numbers(seed: int, stage: str, step: int) -> np.random.Generator:
    """The random numbers of one step on the host."""
    return np.random.default_rng([seed, STAGES[stage], step])


def torch_numbers(seed: int, stage: str, step: int) -> Any:
    """The random numbers of one step as a torch generator, on the CPU for every device."""
    import torch

    return torch.Generator().manual_seed(int(numbers(seed, stage, step).integers(2**62)))


class Settings:
    """Base of the dataclasses of a stage's settings.

    SHAPE: the fields that a checkpoint must agree on.
    """

    SHAPE: ClassVar[tuple[str, ...]] = ()

    def describe(self) -> dict[str, Any]:
        """All fields as JSON and checkpoints hold them: tuples as lists."""
        values = asdict(self)  # type: ignore[call-overload]  # subclasses are dataclasses
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    def shape(self) -> dict[str, Any]:
        """The fields of SHAPE, in the same form."""
        values = self.describe()
        return {name: values[name] for name in self.SHAPE}


def learning_rate(
    step: int, peak: float, warmup: int, steps: int | None = None, cooldown: int = 0
) -> float:
    """Linear warm-up, constant, then linearly to zero over the last `cooldown` of `steps`."""
    rate = peak * min(1.0, (step + 1) / max(1, warmup))
    if steps is not None and cooldown > 0 and step >= steps - cooldown:
        rate *= max(0.0, (steps - step) / cooldown)
    return rate


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values, atomically."""
    import torch

    if not parallel.first():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_checkpoint(path: Path, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """Read a checkpoint; with `settings`, raise CheckpointError where its own differ."""
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{path.name}: expected a readable checkpoint, given {error}"
        ) from error
    if not isinstance(state, dict) or "step" not in state:
        raise CheckpointError(
            f"{path.name}: expected the fields of a checkpoint, given {type(state).__name__}"
        )
    for name, expected in (settings or {}).items():
        given = state.get("settings", {}).get(name)
        if given != expected:
            raise CheckpointError(f"{path.name}: {name}: expected {expected!r}, given {given!r}")
    return state


def copy_values(parameters: Iterable[Any], values: Iterable[Any]) -> None:
    """Overwrites parameters with stored values, such as averages."""
    for parameter, value in zip(parameters, values, strict=True):
        parameter.data.copy_(value)


class Average:
    """Exponential moving average of parameters, with a warm-up of its decay."""

    def __init__(self, parameters: Iterable[Any], decay: float):
        self.decay = decay
        self.values = [p.detach().clone() for p in parameters]

    def update(self, parameters: Iterable[Any], step: int) -> None:
        import torch

        decay = min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(self.values, [p.detach() for p in parameters], 1 - decay)


class Log:
    """Losses averaged over a few steps, one JSON object a line, and on the terminal."""

    def __init__(self, path: Path, stage: str, every: int, echo: Callable[[str], None] = print):
        self.path, self.stage, self.every, self.echo = path, stage, max(1, every), echo
        self.sums: dict[str, float] = {}
        self.steps = self.pictures = 0
        self.start = time.monotonic()

    def add(self, step: int, pictures: int, **values: Any) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)
        self.steps += 1
        self.pictures += pictures
        if (step + 1) % self.every == 0:
            self.flush(step + 1)

    def flush(self, step: int) -> None:
        seconds = max(1e-9, time.monotonic() - self.start)
        means = {name: round(total / self.steps, 5) for name, total in self.sums.items()}
        rate = round(self.pictures / seconds, 1)
        self.write(step=step, seconds=round(seconds, 1), pictures_per_second=rate, **means)
        self.sums, self.steps, self.pictures, self.start = {}, 0, 0, time.monotonic()

    def write(self, **record: Any) -> None:
        if not parallel.first():
            return
        line = json.dumps({"stage": self.stage, **record})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(line + "\n")
        self.echo(line)
