"""How contestants are loaded, compared and timed: what all suites share."""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import UnavailableError
from . import timing
from .results import OURS, Row
from .worker import Run, Worker

SPECIFICATION = "the specification"


@dataclass(frozen=True)
class Contest:
    """Settings of a measurement, from the command line.

    peers: names of those to measure. folder: for checkpoints and converted models, used again if
    they fit. say: reports progress.
    """

    peers: tuple[str, ...]
    threads: int
    rounds: int
    limits: timing.LimitsOfThisMinute
    say: Callable[[str], None]
    folder: Path
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    quick: bool = False

    def times(self, samplers: dict[str, timing.Sampler]) -> dict[str, Any]:
        """Fields of a Row: the machine's limits, then the contestants in turn."""
        limits, times = timing.contest(samplers, self.rounds, self.limits)
        return {"limits": limits, "times": times}

    def row(self, workers: dict[str, Worker], **work: Any) -> Row:
        """Measures the workers, ours among them; work: the fields of Row that name it."""
        measured = self.times({name: worker.sample for name, worker in workers.items()})
        kernels = workers[OURS].loaded.notes.pop("kernels", {})
        facts = {name: describe(worker) for name, worker in workers.items()}
        return Row(inputs="", kernels=kernels, facts=facts, **measured, **work)


@dataclass
class Contestants:
    """Workers by name, and the reasons for which peers are missing."""

    workers: dict[str, Worker] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def load(
        self, stack: ExitStack, name: str, make: Callable[..., Run], threads: int, **arguments: Any
    ) -> None:
        """Starts a worker that lives as long as `stack`; see Worker."""
        self.workers[name] = stack.enter_context(Worker(name, make, threads, **arguments))

    def try_(
        self, stack: ExitStack, name: str, make: Callable[..., Run], threads: int, **arguments: Any
    ) -> None:
        """The same for a peer, which may be unavailable."""
        try:
            self.load(stack, name, make, threads, **arguments)
        except UnavailableError as e:
            self.missing[name] = str(e)

    def truth(
        self, name: str, make: Callable[..., Run], threads: int, **arguments: Any
    ) -> tuple[str, Any]:
        """Whose result is the expected one, and that result: the named peer's or, where it was not
        loaded, that of our maker over the specifications in pyengine.ops.reference.
        """
        if name in self.workers:
            return name, self.workers[name].result
        with Worker(SPECIFICATION, make, threads, backend="reference", **arguments) as worker:
            return SPECIFICATION, worker.result


def describe(worker: Worker) -> dict[str, Any]:
    """Seconds of loading and of the first call, the most memory held, and its own notes."""
    loaded = worker.loaded
    return {
        "load_seconds": loaded.load_seconds,
        "first_call_seconds": loaded.first_call_seconds,
        **worker.peaks(),
        **loaded.notes,
    }


# --- distances of results -------------------------------------------------------------------------


def relative_l2(got: np.ndarray, expected: np.ndarray) -> float:
    """inf where shapes differ or anything is not finite."""
    if got.shape != expected.shape or not np.isfinite(got).all():
        return math.inf
    expected = expected.astype(np.float64)
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def psnr(got: np.ndarray, expected: np.ndarray) -> float:
    """Decibels, for values in 0..1; 200 at most."""
    if got.shape != expected.shape:
        return 0.0
    error = float(np.mean((got.astype(np.float64) - expected) ** 2))
    return 10 * float(np.log10(1 / max(error, 1e-20)))
