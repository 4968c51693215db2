"""Timing: contestants take turns; the machine's limits are measured in the same minute.

On GPUs time is what passes there between two CUDA events around the calls, never the host's.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..cuda import Record, Recorder
from ..ops._check import unseen
from ..ops._core import core

#: Shortest sample, long against the clock's resolution and a call's overhead.
SAMPLE_SECONDS = 0.03
#: The same on a GPU, which needs a while to reach its clock after a pause.
GPU_SAMPLE_SECONDS = 0.2
#: The same of a --quick run.
QUICK_SECONDS = 0.002
#: Limits older than this are measured again.
MINUTE = 60.0
#: Fewest calls in a CUDA graph of `recorded`, so that the launch of the graph is negligible.
LAUNCHES = 32

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

    Bandwidth is that of a large copy, read and written, or of a sum, which only reads. moved:
    "copy" or "read". computed: what reached the peak, "FMA", multiply-adds of float32 in registers,
    or "GEMM", torch's.
    """

    bandwidth: float
    peak: float
    moved: str = "copy"
    computed: str = "GEMM"

    def bound(self, flops: int, nbytes: int) -> float:
        """Seconds that the work takes at least, arithmetic and memory fully overlapped.

        Algorithms that need fewer operations than the definition (Winograd's), and inputs that are
        in a cache already, may take less.
        """
        return max(flops / self.peak, nbytes / self.bandwidth)

    def limited_by(self, flops: int, nbytes: int) -> str:
        return "arithmetic" if flops / self.peak > nbytes / self.bandwidth else "memory"


def contest(
    samplers: dict[str, Sampler], rounds: int, limits: "LimitsOfThisMinute"
) -> tuple[Limits, dict[str, Times]]:
    """(Limits, {name: Times}): the machine's limits and, right after, `rounds` samples of each."""
    return limits(), take_turns(samplers, rounds, limits.sample_seconds)


def take_turns(
    samplers: dict[str, Sampler], rounds: int, seconds: float = SAMPLE_SECONDS
) -> dict[str, Times]:
    """A B C A B C ...: `rounds` samples of each, all warmed up, of at least that many seconds."""
    calls = {name: _calls(sample, seconds) for name, sample in samplers.items()}
    samples: dict[str, list[float]] = {name: [] for name in samplers}
    for _ in range(rounds):
        for name, sample in samplers.items():
            samples[name].append(sample(calls[name]))
    return {name: Times(tuple(found)) for name, found in samples.items()}


def _calls(sample: Sampler, seconds: float) -> int:
    """Warms up; returns how many calls take that long."""
    once = sample(1)
    if once < 10 * seconds:
        once = min(sample(1) for _ in range(3))
    return max(1, round(seconds / max(once, 1e-7)))


def sampler(run: Callable[..., Any], inputs: Iterable[dict[str, Any]], device: str) -> Sampler:
    """Calls of `run` in this process, with one set of arguments after the other, over and over."""
    turn = itertools.cycle(inputs)

    def sample(calls: int) -> float:
        chosen = list(itertools.islice(turn, calls))
        if device.startswith("cuda"):
            return _cuda_seconds(run, chosen, device) / calls
        begin = time.perf_counter()
        for arguments in chosen:
            run(**arguments)
        return (time.perf_counter() - begin) / calls

    return sample


def recorded(
    run: Callable[..., Any],
    inputs: Iterable[dict[str, Any]],
    device: str,
    record: Record | None = None,
) -> Sampler:
    """The same, but on a GPU all of the calls are one CUDA graph, since an op's kernels take less
    time there than Python needs to launch them. A sample is at least one turn through the graph.

    record: pyengine.cuda.Record, given for tests.
    """
    if not device.startswith("cuda"):
        return sampler(run, inputs, device)
    sets = list(inputs)
    sets *= -(-LAUNCHES // len(sets))

    def in_turn(*_: Any) -> Any:
        with unseen():
            for arguments in sets:
                result = run(**arguments)
        return result

    tensor = next(v for v in sets[0].values() if isinstance(v, Tensor))  # any tensor on the device
    replay, _ = (record or Recorder())(in_turn, [tensor], [])

    def sample(calls: int) -> float:
        turns = -(-calls // len(sets))
        return _cuda_seconds(replay, [{}] * turns, device) / (turns * len(sets))

    return sample


def _cuda_seconds(run: Callable[..., Any], chosen: list[dict[str, Any]], device: str) -> float:
    with torch.cuda.device(device):  # whose stream the events are recorded on
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for arguments in chosen:
            run(**arguments)
        end.record()
        torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3


# --- the machine's limits -------------------------------------------------------------------------


class LimitsOfThisMinute:
    """Measures the machine's limits when it is called, unless that is less than a minute ago."""

    def __init__(self, dtype: torch.dtype, device: str, quick: bool = False, moved: str = "copy"):
        self.dtype, self.device, self.quick, self.moved = dtype, device, quick, moved
        usual = GPU_SAMPLE_SECONDS if device.startswith("cuda") else SAMPLE_SECONDS
        self.sample_seconds = QUICK_SECONDS if quick else usual
        self.measured: list[Limits] = []
        self._when = 0.0

    def __call__(self) -> Limits:
        if not self.measured or time.perf_counter() - self._when > MINUTE:
            self._when = time.perf_counter()
            bandwidth, (peak, computed) = self._bandwidth(), self._peak()
            self.measured.append(Limits(bandwidth, peak, self.moved, computed))
        return self.measured[-1]

    def _peak(self) -> tuple[float, str]:
        """The better of two: torch's GEMM reaches 0.4 of the FMA units' rate on some CPUs, which in
        turn know nothing of instructions for narrower dtypes, nor of GPUs.
        """
        gemm = gemm_peak(self.dtype, self.device, 256 if self.quick else None)
        if self.device.startswith("cuda"):
            return gemm, "GEMM"
        return max((gemm, "GEMM"), (fma_peak(self.sample_seconds), "FMA"))

    def _bandwidth(self) -> float:
        if self.moved == "read":
            return read_bandwidth(self.device, 1 << 20 if self.quick else 250_000_000)
        return copy_bandwidth(self.device, 1 << 20 if self.quick else 32 << 20)


def copy_bandwidth(device: str, elements: int = 32 << 20) -> float:
    """Bytes per second read and written by a copy of that many float32."""
    source = torch.zeros(elements, device=device)
    target = torch.zeros_like(source)
    times = take_turns({"copy": sampler(target.copy_, [{"other": source}], device)}, 5)
    return 2 * source.nbytes / times["copy"].median


def read_bandwidth(device: str, elements: int = 250_000_000) -> float:
    """Bytes per second read by the sum of that many float32: 1 GB."""
    source = torch.ones(elements, device=device)  # zeros may all be one shared page
    times = take_turns({"read": sampler(source.sum, [{}], device)}, 5)
    return source.nbytes / times["read"].median


def gemm_peak(dtype: torch.dtype, device: str, n: int | None = None) -> float:
    """Operations per second of torch's n x n x n GEMM; n: 2048, or 8192 on a GPU."""
    n = n or (8192 if device.startswith("cuda") else 2048)
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    times = take_turns({"gemm": sampler(torch.mm, [{"input": a, "mat2": b}], device)}, 5)
    return 2 * n**3 / times["gemm"].median


def fma_peak(seconds: float = SAMPLE_SECONDS) -> float:
    """Operations per second of float32 multiply-adds in the CPU's registers, by all of torch's
    threads with the instruction set in use. A multiplication and an addition count as two.
    """
    threads, turns = torch.get_num_threads(), 1 << 14
    operations, _ = core().multiply_adds(turns, threads)
    times = take_turns(
        {"fma": sampler(core().multiply_adds, [{"turns": turns, "threads": threads}], "cpu")},
        5,
        seconds,
    )
    return float(operations) / min(times["fma"].samples)
