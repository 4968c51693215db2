"""From the command line's options to measurements, and from these to table, JSON and picture."""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import RequestError
from ..pipelines.loading import NAMED, find_device, find_dtype
from . import (
    agreement,
    checkpoints,
    machine,
    models,
    neighbours,
    operations,
    pipeline,
    plot,
    results,
    timing,
    token,
)
from .results import Result

#: Rounds of a run that only shows that everything works.
QUICK_ROUNDS = 2


@dataclass
class Options:
    """What every suite takes."""

    peers: bool
    without: list[str]
    threads: int | None
    rounds: int
    quick: bool
    json: bool
    save: Path | None
    plot: Path | None
    device: str = "cpu"
    dtype: str = "float32"

    def names(self, known: tuple[str, ...]) -> tuple[str, ...]:
        """The peers to measure; raises RequestError for one to leave out that is not there."""
        for name in self.without:
            if name not in known:
                raise RequestError(f"without: expected one of {', '.join(known)}, given {name!r}")
        return tuple(n for n in known if n not in self.without) if self.peers else ()


def run_ops(o: Options, *, op: list[str], shape: list[str]) -> int:
    on_gpu = find_device(o.device).type == "cuda"
    peers = o.names(operations.CUDA_PEERS if on_gpu else operations.PEERS)
    chosen = operations.shapes(op, shape, o.quick, on_gpu)
    return _run(
        o,
        "ops",
        lambda **common: operations.measure(
            chosen, dtype=find_dtype(o.dtype), device=o.device, quick=o.quick, peers=peers, **common
        ),
    )


def run_model(
    o: Options, kind: str, *, latents: str | None, batch: int, folder: Path | None,
    model: str = "sd15", weights: str | None = None,
) -> int:  # fmt: skip
    for name, given, known in (
        ("model", model, models.NAMES), ("weights", weights, (None, "fp8")),
    ):  # fmt: skip
        if given not in known:
            expected = ", ".join(filter(None, known))
            raise RequestError(f"{name}: expected one of {expected}, given {given!r}")
    sides = _sides(latents) if latents else ([8] if o.quick else [32, 64])
    on_gpu = find_device(o.device).type == "cuda"
    peers = o.names(models.CUDA_PEERS if on_gpu else models.PEERS)
    how = {"device": o.device, "dtype": find_dtype(o.dtype), "model": model, "weights": weights}
    tasks = [models.Task(kind, side, batch, o.quick, **how) for side in sides]

    def measure(**common: Any) -> Result:
        with _folder(folder) as place:
            return models.measure(tasks, peers=peers, folder=place, **common)

    return _run(o, kind, measure)


def run_pipeline(o: Options, *, size: int | None, steps: int | None, folder: Path | None) -> int:
    size = size or (64 if o.quick else 512)
    if size % 64:
        raise RequestError(f"size: expected a multiple of 64, given {size}")
    peers = o.names(pipeline.PEERS)
    steps = steps or (2 if o.quick else 4)

    def measure(**common: Any) -> Result:
        with _folder(folder) as place:
            return pipeline.measure(
                size=size, steps=steps, quick=o.quick, peers=peers, folder=place, **common
            )

    return _run(o, "pipeline", measure)


def run_token(
    o: Options, *, model: str | None, windows: str, pictures: int, only: list[str],
    folder: Path | None, size: str = "b",
) -> int:  # fmt: skip
    peers = o.names(token.PEERS)
    if size not in checkpoints.GPTS:
        expected = ", ".join(checkpoints.GPTS)
        raise RequestError(f"model-size: expected one of {expected}, given {size!r}")
    shape = token.Shape(o.quick, size, find_dtype(o.dtype))
    parts = token.parts(only, model)
    sizes = _windows(windows) if model else []

    def measure(**common: Any) -> Result:
        with _folder(folder) as place:
            return token.measure(
                parts, shape, device=o.device, peers=peers, folder=place, model=model,
                windows=sizes, pictures=pictures, **common,
            )  # fmt: skip

    return _run(o, "token", measure, moved="read")


def run_agreement(
    *, device: str, pictures: int, threads: int | None, save: Path | None, as_json: bool = False
) -> int:
    """Raises RuntimeError, once all is told, where pictures differ too much."""
    device = str(find_device(device))
    if save is not None:
        _check_file("save", save)
    threads = threads or machine.cores()
    with _threads(threads):
        result = agreement.measure(device, pictures, _say)
    facts = {"suite": "agreement", **machine.facts(device, threads), "dtype": "float32"}
    if as_json:
        print(json.dumps(result.json(facts)))
    else:
        _print(facts, agreement.table(result))
        worst = min(pair.psnr for pair in result.pairs)
        print(f"least PSNR {worst:.1f} dB")
    if save is not None:
        save.write_text(json.dumps(result.json(facts), indent=1))
    result.check()
    return 0


def run_neighbours(
    *, model: list[str], busy: int | None, pictures: int, threads: int | None, rounds: int,
    quick: bool, save: Path | None, as_json: bool = False,
) -> int:  # fmt: skip
    if save is not None:
        _check_file("save", save)
    threads = threads or machine.cores()
    busy = machine.cores() if busy is None else busy
    found = neighbours.measure(
        model or list(NAMED), busy=busy, pictures=1 if quick else pictures, threads=threads,
        rounds=1 if quick else rounds, say=_say,
    )  # fmt: skip
    facts = {"suite": "neighbours", **machine.facts("cpu", threads), "dtype": "float32"}
    if as_json:
        print(json.dumps(neighbours.plain(found, facts)))
    else:
        _print(facts, neighbours.table(found))
    if save is not None:
        save.write_text(json.dumps(neighbours.plain(found, facts), indent=1))
    return 0


def _windows(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdigit() and 1 <= int(part) <= 1 << 16 for part in parts):
        raise RequestError(f"windows: expected sizes of 1 or more, as in 8,16, given {text!r}")
    return [int(part) for part in parts]


def _sides(text: str) -> list[int]:
    try:
        sides = [int(part) for part in text.split(",")]
    except ValueError:
        sides = []
    if not sides or not all(8 <= side <= 1024 and side % 8 == 0 for side in sides):
        raise RequestError(
            f"latents: expected multiples of 8 up to 1024, as in 32,64, given {text!r}"
        )
    return sides


@contextmanager
def _folder(folder: Path | None) -> Iterator[Path]:
    """The one that is kept, or one that is not."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="pyengine-bench-") as place:
        yield Path(place)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(o: Options, suite: str, measure: Callable[..., Result], moved: str = "copy") -> int:
    """Measures and tells. Returns the exit status."""
    o.device = str(find_device(o.device))
    find_dtype(o.dtype)
    _check_files(o)  # now, rather than after many minutes
    machine.set_up(o.device)
    threads = o.threads or machine.cores()
    torch.manual_seed(0)
    facts = {"suite": suite, **machine.facts(o.device, threads), "dtype": o.dtype}
    rounds = QUICK_ROUNDS if o.quick else o.rounds
    facts |= {"rounds": rounds, "quick": o.quick}
    limits = timing.LimitsOfThisMinute(find_dtype(o.dtype), o.device, o.quick, moved)
    with _threads(threads):
        result = measure(threads=threads, rounds=rounds, limits=limits, say=_say)
    facts["peak_bytes"] = machine.peak_memory()
    tell(o, result, facts)
    return 0


def _check_files(o: Options) -> None:
    """Raises RequestError where a file cannot be written, UnavailableError without matplotlib."""
    for name, path in (("save", o.save), ("plot", o.plot)):
        if path is not None:
            _check_file(name, path)
    if o.plot is not None:
        plot.figure_class()


def _check_file(name: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as e:
        raise RequestError(f"{name}: expected a file to write, given {str(path)!r} ({e})") from e


def _say(text: str) -> None:
    print(f"pyengine bench: {text}", file=sys.stderr, flush=True)


def tell(o: Options, result: Result, facts: dict[str, Any]) -> None:
    """The table and what belongs to it, or all as JSON, on standard output; files where they were
    asked for.
    """
    if o.json:
        print(json.dumps(result.json(facts)))
    else:
        _print(facts, results.table(result))
        print("\n".join([*results.details(result), results.ceilings(result)]))
    if o.save is not None:
        o.save.write_text(json.dumps(result.json(facts), indent=1))
    if o.plot is not None:
        title = f"{facts['suite']}: {facts['cpu']}, {facts['instruction set']}"
        plot.roofline(result, o.plot, f"{title}, {facts['threads']} threads, {o.dtype}")


def _print(facts: dict[str, Any], table: Any) -> None:
    from rich.console import Console

    print("; ".join(f"{k} {v}" for k, v in facts.items() if k != "peak_bytes"), end="\n\n")
    console = Console(width=1000, highlight=False, color_system=None)  # the terminal may wrap it
    with console.capture() as text:
        console.print(table)
    print(text.get().strip(), end="\n\n")
