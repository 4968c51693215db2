"""Runs the suites: checks options, measures, and prints or writes the results."""

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import RequestError
from ..pipelines.loading import NAMED
from ..pipelines.placing import find_device, find_dtype
from ..weights import TIERS
from . import (
    agreement,
    arrangements,
    checkpoints,
    llamagen,
    machine,
    models,
    neighbours,
    operations,
    pipeline,
    plot,
    results,
    serve,
    serve_report,
    tasks,
    tiers,
    timing,
    token,
)
from .contest import Contest
from .results import Result

#: Rounds of a --quick run, which only shows that everything works.
QUICK_ROUNDS = 2


@dataclass
class Options:
    """Options of several suites. keep: a folder for checkpoints and converted models."""

    peers: bool = False
    without: Sequence[str] = ()
    threads: int | None = None
    rounds: int = 5
    quick: bool = False
    json: bool = False
    save: Path | None = None
    plot: Path | None = None
    keep: Path | None = None
    device: str = "cpu"
    dtype: str = "float32"

    @property
    def on_gpu(self) -> bool:
        """Raises RequestError for an unknown device."""
        return find_device(self.device).type == "cuda"

    def names(self, known: tuple[str, ...]) -> tuple[str, ...]:
        """The peers to measure; raises RequestError where --without names an unknown one."""
        for name in self.without:
            if name not in known:
                raise RequestError(f"without: expected one of {', '.join(known)}, given {name!r}")
        return tuple(n for n in known if n not in self.without) if self.peers else ()


# --- contests: ours against peers -----------------------------------------------------------------


def run_ops(o: Options, *, op: list[str], shape: list[str]) -> int:
    peers = o.names(operations.CUDA_PEERS if o.on_gpu else operations.PEERS)
    chosen = operations.shapes(op, shape, o.quick, o.on_gpu)
    return _contest(o, "ops", peers, lambda contest: operations.measure(contest, chosen))


def run_model(
    o: Options, kind: str, *, latents: str | None, batch: int, model: str = "sd15",
    weights: str | None = None,
) -> int:  # fmt: skip
    _one_of("model", model, tasks.NAMES)
    if weights is not None:
        _one_of("weights", weights, TIERS)
        if model not in models.FP8_AGREEMENT:
            raise RequestError(
                f"weights: {model} has no tier of 8 bits: expected none, given {weights!r}"
            )
    sides = _sides(latents) if latents else ([8] if o.quick else [32, 64])
    peers = o.names(models.CUDA_PEERS if o.on_gpu else models.PEERS)
    chosen = [
        tasks.Task(kind, side, batch, o.quick, o.device, find_dtype(o.dtype), model, weights)
        for side in sides
    ]
    return _contest(o, kind, peers, lambda contest: models.measure(contest, chosen))


def run_pipeline(
    o: Options, *, model: str | None, arrangement: str | None, size: int | None,
    steps: int | None, pictures: int,
) -> int:  # fmt: skip
    if model is not None and arrangement is not None:
        raise RequestError("arrangement: expected none beside a model")
    kind = arrangement or arrangements.NAMES[0]
    _one_of("arrangement", kind, arrangements.NAMES)
    if size is not None and size % (64 if model is None else 8):
        raise RequestError(
            f"size: expected a multiple of {64 if model is None else 8}, given {size}"
        )
    peers = o.names(pipeline.PEERS)
    return _contest(
        o, "pipeline", peers,
        lambda contest: pipeline.measure(contest, model, kind, size, steps, pictures),
    )  # fmt: skip


def run_token(
    o: Options, *, model: str | None, windows: str, pictures: int, only: list[str], size: str = "b"
) -> int:
    peers = o.names(token.PEERS)
    _one_of("model-size", size, checkpoints.GPTS)
    shape = llamagen.Shape(o.quick, size, find_dtype(o.dtype))
    parts = token.parts(only, model)
    sizes = _windows(windows) if model else []

    def measure(contest: Contest) -> Result:
        return token.measure(contest, parts, shape, model, sizes, pictures)

    return _contest(o, "token", peers, measure, moved="read")


def _contest(
    o: Options, suite: str, peers: tuple[str, ...], measure: Callable[[Contest], Result],
    moved: str = "copy",
) -> int:  # fmt: skip
    """Measures a suite and reports it. Returns the exit status."""
    o.device, dtype = str(find_device(o.device)), find_dtype(o.dtype)
    _check_files(o)  # before many minutes of measuring
    machine.set_up(o.device)
    threads = o.threads or machine.cores()
    torch.manual_seed(0)
    facts = _facts(suite, o, threads)
    rounds = QUICK_ROUNDS if o.quick else o.rounds
    facts |= {"rounds": rounds, "quick": o.quick}
    limits = timing.LimitsOfThisMinute(dtype, o.device, o.quick, moved)
    with _folder(o.keep) as folder, _threads(threads):
        contest = Contest(peers, threads, rounds, limits, _say, folder, o.device, dtype, o.quick)
        result = measure(contest)
    facts["peak_bytes"] = machine.peak_memory()
    after = [*results.details(result), results.ceilings(result)]
    _tell(o, facts, result.json(facts), lambda: results.table(result), after)
    if o.plot is not None:
        title = f"{facts['suite']}: {facts['cpu']}, {facts['instruction set']}"
        plot.roofline(result, o.plot, f"{title}, {facts['threads']} threads, {o.dtype}")
    return 0


# --- ours alone -----------------------------------------------------------------------------------


def run_agreement(o: Options, *, pictures: int) -> int:
    """Raises RuntimeError, after the report, where pictures differ too much."""
    o.device = str(find_device(o.device))
    _check_files(o)
    threads = o.threads or machine.cores()
    with _threads(threads):
        result = agreement.measure(o.device, pictures, _say)
    facts = _facts("agreement", o, threads)
    worst = min(pair.psnr for pair in result.pairs)
    after = [f"least PSNR {worst:.1f} dB"]
    _tell(o, facts, result.json(facts), lambda: agreement.table(result), after)
    result.check()
    return 0


def run_neighbours(o: Options, *, model: list[str], busy: int | None, pictures: int) -> int:
    _check_files(o)
    threads = o.threads or machine.cores()
    found = neighbours.measure(
        model or list(NAMED), busy=machine.cores() if busy is None else busy,
        pictures=1 if o.quick else pictures, threads=threads, rounds=1 if o.quick else o.rounds,
        say=_say,
    )  # fmt: skip
    facts = _facts("neighbours", o, threads)
    _tell(o, facts, neighbours.plain(found, facts), lambda: neighbours.table(found))
    return 0


def run_tiers(o: Options, *, model: str, data: Path | None, count: int, seed: int) -> int:
    _check_files(o)
    threads = o.threads or machine.cores()
    torch.set_num_threads(threads)
    pipe = tiers.load(model)
    chosen = tiers.ways(pipe, o.quick)
    peer = tiers.peer_of(pipe) if o.names((tiers.PEER,)) else None
    tiers.count_evaluations(pipe, chosen)
    seconds = tiers.time_them(pipe, chosen, 1 if o.quick else o.rounds, peer, _say)
    tiers.as_long_as(chosen)
    if count:
        tiers.look_at_them(pipe, chosen, data, count, seed, _say)
    facts = _facts("tiers", o, threads)
    _tell(o, facts, tiers.plain(chosen, seconds, facts), lambda: tiers.table(chosen, seconds))
    return 0


def run_serve(
    o: Options, *, model: list[str], load: str, seconds: float, patience: float, max_waiting: int,
    requests: int, only: str, others: bool,
) -> int:  # fmt: skip
    _check_files(o)
    names = o.names(serve.PEERS)
    work = serve.Work(
        models=tuple(model) or NAMED[: 1 if names else 2],
        loads=(4.0,) if o.quick else _loads(load), seconds=1.0 if o.quick else seconds,
        patience=patience, max_waiting=max_waiting, threads=o.threads or machine.cores(),
        requests=requests, only=only, others=others, quick=o.quick,
    )  # fmt: skip
    found = serve.measure(work, names, _say)
    facts = _facts("serve", o, work.threads)
    everything = serve_report.plain(found, work, facts)
    _tell(o, facts, everything, lambda: serve_report.table(found), serve_report.lines(found))
    if o.plot is not None:
        serve_report.plot(found, o.plot, f"{', '.join(work.models)}, {work.threads} threads")
    return 0


# --- values of options ----------------------------------------------------------------------------


def _one_of(name: str, given: str, known: Iterable[str]) -> None:
    if given not in known:
        raise RequestError(f"{name}: expected one of {', '.join(known)}, given {given!r}")


def _windows(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdigit() and 1 <= int(part) <= 1 << 16 for part in parts):
        raise RequestError(f"windows: expected sizes of 1 or more, as in 8,16, given {text!r}")
    return [int(part) for part in parts]


def _loads(text: str) -> list[float]:
    try:
        loads = [float(part) for part in text.split(",")]
    except ValueError:
        loads = []
    if not loads or not all(0.01 <= load <= 1000 for load in loads):
        raise RequestError(
            f"load: expected numbers from 0.01 to 1000, as in 0.8,10, given {text!r}"
        )
    return loads


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
    """The given folder, or a temporary one."""
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


def _facts(suite: str, o: Options, threads: int) -> dict[str, Any]:
    """The machine's facts for the report."""
    return {"suite": suite, **machine.facts(o.device, threads), "dtype": o.dtype}


def _tell(
    o: Options, facts: dict[str, Any], everything: dict[str, Any], table: Callable[[], Any],
    after: Sequence[str] = (),
) -> None:  # fmt: skip
    """Prints facts, table and the lines `after` it, or with --json everything; --save writes
    everything to a file.
    """
    if o.json:
        print(json.dumps(everything))
    else:
        _print(facts, table())
        for line in after:
            print(line)
    if o.save is not None:
        o.save.write_text(json.dumps(everything, indent=1))


def _print(facts: dict[str, Any], table: Any) -> None:
    from rich.console import Console

    print("; ".join(f"{k} {v}" for k, v in facts.items() if k != "peak_bytes"), end="\n\n")
    console = Console(width=1000, highlight=False, color_system=None)  # the terminal may wrap it
    with console.capture() as text:
        console.print(table)
    print(text.get().strip(), end="\n\n")
