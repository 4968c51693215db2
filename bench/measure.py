"""Timing: contestants take turns, inputs stay in cache (hot) or rotate past it (cold).

The bounds are measured in the same minute: memory bandwidth by a copy, arithmetic by a GEMM.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .shapes import Shape, nbytes

#: Cold inputs together: several times any cache here, and an H200's 50 MB L2 five times.
COLD_BYTES = 256 << 20
MAX_COPIES = 4096
#: A sample lasts at least this long, so that the clock's steps and a call's start do not show.
SAMPLE_SECONDS = 0.03


@dataclass(frozen=True)
class Times:
    """Seconds per call: a sample each round."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a share of the median."""
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return (high - low) / 2 / self.median


def inputs_for(shape: Shape, dtype: torch.dtype, device: str, cold: bool) -> list[dict[str, Any]]:
    """One set of arguments, or copies of it that together outgrow the caches."""
    first = shape.build(dtype, device)
    copies = min(MAX_COPIES, COLD_BYTES // nbytes(first) + 1) if cold else 1
    return [first, *(_clone(first) for _ in range(copies - 1))]


def _clone(inputs: dict[str, Any]) -> dict[str, Any]:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in inputs.items()}


def take_turns(
    contestants: dict[str, Callable[..., Any]],
    inputs: list[dict[str, Any]],
    rounds: int,
    device: str,
) -> dict[str, Times]:
    """A B C A B C ...: `rounds` samples of each contestant, all warmed up."""
    turn = {name: itertools.cycle(inputs) for name in contestants}
    calls = {}
    for name, run in contestants.items():
        _seconds(run, turn[name], 1, device)
        once = min(_seconds(run, turn[name], 1, device) for _ in range(3))
        calls[name] = max(1, round(SAMPLE_SECONDS / max(once, 1e-7)))
    samples = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            samples[name].append(_seconds(run, turn[name], calls[name], device))
    return {name: Times(tuple(found)) for name, found in samples.items()}


def _seconds(
    run: Callable[..., Any], inputs: Iterator[dict[str, Any]], calls: int, device: str
) -> float:
    chosen = list(itertools.islice(inputs, calls))
    if device.startswith("cuda"):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for arguments in chosen:
            run(**arguments)
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1e3 / calls
    begin = time.perf_counter()
    for arguments in chosen:
        run(**arguments)
    return (time.perf_counter() - begin) / calls


def copy_bandwidth(device: str) -> float:
    """Bytes per second read and written by a large copy."""
    source = torch.zeros(32 << 20, device=device)
    target = torch.zeros_like(source)
    times = take_turns({"copy": target.copy_}, [{"other": source}], 5, device)
    return 2 * source.nbytes / times["copy"].median


def gemm_peak(dtype: torch.dtype, device: str) -> float:
    """Multiplications and additions per second of torch's 2048^3 GEMM (8192^3 on a GPU)."""
    n = 8192 if device.startswith("cuda") else 2048
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    times = take_turns({"gemm": torch.mm}, [{"input": a, "mat2": b}], 5, device)
    return 2 * n**3 / times["gemm"].median
