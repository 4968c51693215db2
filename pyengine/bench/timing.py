"""Timing: contestants take turns; the machine's limits are measured in the same minute."""

import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

#: A sample lasts at least this long, so that the clock's steps and a call's start do not show.
SAMPLE_SECONDS = 0.03
#: Limits are measured anew when they are older.
MINUTE = 60.0

#: Makes that many calls and returns the seconds of one.
Sampler = Callable[[int], float]


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
        if len(self.samples) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return (high - low) / 2 / self.median


@dataclass(frozen=True)
class Limits:
    """What the machine can do at most: bytes and floating-point operations per second.

    Bandwidth is that of a large copy, read and written; the peak is that of torch's GEMM.
    """

    bandwidth: float
    peak: float

    def bound(self, flops: int, nbytes: int) -> float:
        """Seconds that the work takes at least, arithmetic and memory fully overlapped.

        Algorithms that need fewer operations than the definition (Winograd's), and inputs that are
        in a cache already, may take less.
        """
        return max(flops / self.peak, nbytes / self.bandwidth)

    def limited_by(self, flops: int, nbytes: int) -> str:
        return "arithmetic" if flops / self.peak > nbytes / self.bandwidth else "memory"


def contest(samplers: dict[str, Sampler], rounds: int, limits: Callable[[], Limits]):
    """(Limits, {name: Times}): the machine's limits and, right after, `rounds` samples of each."""
    return limits(), take_turns(samplers, rounds)


def take_turns(samplers: dict[str, Sampler], rounds: int) -> dict[str, Times]:
    """A B C A B C ...: `rounds` samples of each, all warmed up."""
    calls = {name: _calls(sample) for name, sample in samplers.items()}
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in range(rounds):
        for name, sample in samplers.items():
            samples[name].append(sample(calls[name]))
    return {name: Times(tuple(found)) for name, found in samples.items()}


def _calls(sample: Sampler) -> int:
    """Warms up; how many calls last SAMPLE_SECONDS."""
    once = sample(1)
    if once < 10 * SAMPLE_SECONDS:
        once = min(sample(1) for _ in range(3))
    return max(1, round(SAMPLE_SECONDS / max(once, 1e-7)))


def sampler(run: Callable[..., Any], inputs: Iterable[dict[str, Any]], device: str) -> Sampler:
    """Calls of `run` in this process, with one set of arguments after the other, over and over."""
    turn = itertools.cycle(inputs)

    def sample(calls: int) -> float:
        chosen = list(itertools.islice(turn, calls))
        if device.startswith("cuda"):
            return _cuda_seconds(run, chosen) / calls
        begin = time.perf_counter()
        for arguments in chosen:
            run(**arguments)
        return (time.perf_counter() - begin) / calls

    return sample


def _cuda_seconds(run: Callable[..., Any], chosen: list[dict[str, Any]]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for arguments in chosen:
        run(**arguments)
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


# --- the machine's limits -------------------------------------------------------------------------


class LimitsOfThisMinute:
    """Measures the machine's limits when it is called, unless that is less than a minute ago."""

    def __init__(self, dtype: torch.dtype, device: str, quick: bool = False):
        self.dtype, self.device, self.quick = dtype, device, quick
        self.measured: list[Limits] = []
        self._when = 0.0

    def __call__(self) -> Limits:
        if not self.measured or time.perf_counter() - self._when > MINUTE:
            self._when = time.perf_counter()
            self.measured.append(
                Limits(
                    copy_bandwidth(self.device, 1 << 20 if self.quick else 32 << 20),
                    gemm_peak(self.dtype, self.device, 256 if self.quick else None),
                )
            )
        return self.measured[-1]


def copy_bandwidth(device: str, elements: int = 32 << 20) -> float:
    """Bytes per second read and written by a copy of that many float32."""
    source = torch.zeros(elements, device=device)
    target = torch.zeros_like(source)
    times = take_turns({"copy": sampler(target.copy_, [{"other": source}], device)}, 5)
    return 2 * source.nbytes / times["copy"].median


def gemm_peak(dtype: torch.dtype, device: str, n: int | None = None) -> float:
    """Operations per second of torch's n x n x n GEMM; n: 2048, or 8192 on a GPU."""
    n = n or (8192 if device.startswith("cuda") else 2048)
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    times = take_turns({"gemm": sampler(torch.mm, [{"input": a, "mat2": b}], device)}, 5)
    return 2 * n**3 / times["gemm"].median
