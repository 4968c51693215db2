"""`pyengine bench neighbours`: a picture's time beside busy processes, compared with that alone."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from .machine import cores
from .pictures import PROMPT
from .worker import Notes, Run, Worker

SEED = 1
#: What a neighbour runs: it never sleeps.
BUSY = "while True: pass"
#: Seconds until the scheduler has settled after neighbours start or end.
SETTLE = 0.3


@dataclass(frozen=True)
class Beside:
    """Seconds of each picture of one model, and how many busy processes there were."""

    model: str
    busy: int
    fair: float
    alone: list[float]
    beside: list[float]

    @property
    def ratio(self) -> float:
        """Median beside busy processes over median alone."""
        return statistics.median(self.beside) / statistics.median(self.alone)

    @property
    def worst(self) -> float:
        """Slowest picture beside busy processes over median alone."""
        return max(self.beside) / statistics.median(self.alone)


def fair_share(threads: int, busy: int) -> float:
    """Slowdown of that many threads beside `busy` others, where the scheduler gives all equal time.

    Threads that wait for each other are slower than this.
    """
    there = cores()
    return max(1.0, (threads + busy) / there) / max(1.0, threads / there)


def ours(notes: Notes, *, threads: int, model: str) -> Run:
    """A call of the pipeline with the model's defaults."""
    torch.set_num_threads(threads)
    from ..pipelines import from_pretrained

    pipe: Any = from_pretrained(model, device="cpu")

    def run() -> Any:
        return pipe(PROMPT, seed=SEED, output_type="np", progress=False).images

    return run


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Within the block, `count` other processes keep a core busy each."""
    processes = [subprocess.Popen([sys.executable, "-S", "-c", BUSY]) for _ in range(count)]
    try:
        time.sleep(SETTLE)
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.wait()
        time.sleep(SETTLE)


def measure(
    models: list[str],
    *,
    busy: int,
    pictures: int,
    threads: int,
    rounds: int,
    say: Callable[[str], None],
) -> list[Beside]:
    """In each round some pictures alone, then as many beside `busy` processes."""
    found = []
    for model in models:
        with Worker(model, ours, threads, model=model) as worker:
            alone: list[float] = []
            beside: list[float] = []
            for i in range(rounds):
                say(f"{model}: round {i + 1} of {rounds}")
                alone += [worker.sample(1) for _ in range(pictures)]
                with neighbours(busy):
                    beside += [worker.sample(1) for _ in range(pictures)]
        found.append(Beside(model, busy, fair_share(threads, busy), alone, beside))
    return found


def table(found: list[Beside]) -> Any:
    """A rich table in Markdown's form."""
    from rich import box
    from rich.table import Table

    heads = ("model", "busy processes", "alone, s", "beside them, s", "ratio", "slowest", "fair")
    result = Table(*heads, box=box.MARKDOWN)
    for row in found:
        result.add_row(
            row.model,
            str(row.busy),
            f"{statistics.median(row.alone):.3f}",
            f"{statistics.median(row.beside):.3f}",
            f"{row.ratio:.2f}x",
            f"{row.worst:.2f}x",
            f"{row.fair:.2f}x",
        )
    return result


def plain(found: list[Beside], machine: dict[str, Any]) -> dict[str, Any]:
    """The result for JSON."""
    rows = [{**asdict(row), "ratio": row.ratio, "worst": row.worst} for row in found]
    return {"machine": machine, "models": rows}
