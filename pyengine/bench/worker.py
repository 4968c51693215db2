"""A contestant in a process of its own.

Its OpenMP runtime and thread pool then compete with nobody's, its memory can be told from others',
and loading it is measured from nothing. While one works, the others wait for a message.
"""

import multiprocessing
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import ops
from ..errors import UnavailableError
from . import timing
from .machine import peak_memory, set_up

#: Seconds of sleep after a turn: OpenMP's threads spin for some ms after their work, and would take
#: a core from the next contestant.
REST = 0.05
#: How processes start. (Tests fork them from a process that has imported torch.)
START = "spawn"
#: Returned by a contestant's maker: a call without arguments that returns a tensor or numpy arrays.
Run = Callable[[], Any]
#: What a maker notes of its loading, by name.
Notes = dict[str, Any]


@dataclass
class Loaded:
    """Seconds of loading, without imports, and of the first call, with what it compiles."""

    load_seconds: float
    first_call_seconds: float
    notes: Notes


class Worker:
    """make(notes, threads=..., **arguments) -> Run, called in a new process.

    make: a function of a module, which may add to the dict `notes`. An argument named `device` says
    where it computes: calls on a GPU are timed by CUDA events, and no result is copied from there
    but the first. Raises UnavailableError where it says so or a package is missing, RuntimeError
    with the trace for whatever else goes wrong.
    """

    def __init__(self, name: str, make: Callable[..., Run], threads: int, **arguments: Any):
        self.name = name
        context: Any = multiprocessing.get_context(START)
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, make, threads, arguments), daemon=True
        )
        self._process.start()
        theirs.close()
        try:
            self.loaded, self.result = self._answer()
        except BaseException:
            self.close()
            raise

    def sample(self, calls: int) -> float:
        """Seconds of one of that many calls, by the worker's clock or its GPU's: a
        timing.Sampler.
        """
        self._pipe.send(calls)
        return float(self._answer())

    def peaks(self) -> dict[str, int]:
        """Bytes that the process has held at most so far: "peak_bytes" and, on a GPU,
        "peak_gpu_bytes".
        """
        self._pipe.send("peaks")
        return dict(self._answer())

    def close(self) -> None:
        self._pipe.close()  # ends the worker's loop
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _answer(self) -> Any:
        try:
            kind, value = self._pipe.recv()
        except EOFError:
            self._process.join(5)
            raise RuntimeError(
                f"{self.name}: the process ended with status {self._process.exitcode}"
                " (-9: killed, often for memory)"
            ) from None
        if kind == "unavailable":
            raise UnavailableError(value)
        if kind == "error":
            raise RuntimeError(f"{self.name}: {value}")
        return value


def _serve(pipe: Any, make: Callable[..., Run], threads: int, arguments: dict[str, Any]) -> None:
    warnings.simplefilter("ignore")  # of peers' tracing and renamed arguments
    try:
        device = str(arguments.get("device", "cpu"))
        set_up(device)
        notes: Notes = {}
        begin = time.perf_counter()
        run = make(notes, threads=threads, **arguments)
        loaded = time.perf_counter() - begin
        begin = time.perf_counter()
        result = to_array(run())
        first = time.perf_counter() - begin
        sample = timing.sampler(run, [{}], device)
        time.sleep(REST)
        pipe.send(("value", (Loaded(notes.pop("load_seconds", loaded), first, notes), result)))
        while True:
            message = pipe.recv()
            if message == "peaks":
                pipe.send(("value", _peaks(device)))
                continue
            seconds = sample(message)
            time.sleep(REST)
            pipe.send(("value", seconds))
    except (EOFError, KeyboardInterrupt, BrokenPipeError):
        pass
    except UnavailableError as e:
        pipe.send(("unavailable", str(e)))
    except ModuleNotFoundError as e:
        pipe.send(("unavailable", f"{e.name} is not installed"))
    except Exception:
        pipe.send(("error", traceback.format_exc()))


def _peaks(device: str) -> dict[str, int]:
    found = {"peak_bytes": peak_memory()}
    if device.startswith("cuda"):
        found["peak_gpu_bytes"] = torch.cuda.max_memory_reserved(device)
    return found


@contextmanager
def loading(notes: Notes, threads: int) -> Iterator[float]:
    """For makers of ours: loads the kernels, then notes the seconds of the block as load_seconds.
    Yields the time at which the block began.
    """
    torch.set_num_threads(threads)
    ops.isa()
    begin = time.perf_counter()
    yield begin
    notes["load_seconds"] = time.perf_counter() - begin


def to_array(result: Any) -> Any:
    """A tensor as a NumPy array, which waits for its device; anything else unchanged."""
    return result.detach().float().cpu().numpy() if isinstance(result, Tensor) else result
