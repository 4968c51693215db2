"""Measures every op against torch, eager and compiled; prints a Markdown table, writes JSON.

    python -m bench.ops.table                     the ops with our own kernels, two threads
    python -m bench.ops.table --ops conv2d linear --rounds 9
    python -m bench.ops.table --device cuda --dtype bfloat16

Contestants take turns in one process; times are medians, with half the distance between the
quartiles. Cold inputs rotate through 256 MB. The bound is the time to read the inputs and write the
results once at the copy bandwidth of the same minute, or to do the arithmetic at the rate of a
2048^3 GEMM; it says nothing about hot inputs that fit a cache.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from pyengine import ops

from ..measure import Times, copy_bandwidth, gemm_peak, inputs_for, take_turns
from ..shapes import SHAPES, TINY, Shape, nbytes
from .contest import CONTESTANTS, check, contestant

#: Ops with kernels of ours; the others are torch's own so far.
FUSED = ["group_norm_silu", "group_norm_scale_shift", "layer_norm", "geglu", "sampler_step"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Row:
    """One shape, hot or cold."""

    op: str
    shape: str
    cold: bool
    kernel: str
    times: dict[str, Times]
    compile_seconds: float | None
    bound_seconds: float
    bound_rate: float
    limit: str

    def cells(self) -> list[str]:
        ours = self.times["pyengine"].median
        cells = [self.op, self.shape, "cold" if self.cold else "hot"]
        for name in CONTESTANTS:
            times = self.times.get(name)
            cells.append(f"{times.median * 1e3:.3g} ±{times.spread:.0%}" if times else "-")
        for name in CONTESTANTS[:2]:
            times = self.times.get(name)
            cells.append(f"{times.median / ours:.2f}x" if times else "-")
        bounded = self.cold or self.limit == "arithmetic"
        cells.append(f"{self.bound_seconds / ours:.0%}" if bounded else "-")
        return cells

    def json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "times": {
                name: {"median": t.median, "spread": t.spread, "samples": t.samples}
                for name, t in self.times.items()
            },
        }


def eager_of(op: str) -> Callable[..., Any]:
    """The op's peer, from its benchmark."""
    return import_module(f".bench_{ops.OPS[op].module}", __package__).EAGER[op]


@torch.no_grad()
def measure(shape: Shape, dtype: torch.dtype, args: argparse.Namespace) -> Iterator[Row]:
    """Correctness, then both rows of a shape."""
    eager = eager_of(shape.op)
    wanted = [name for name in CONTESTANTS if args.compile or name != "torch.compile"]
    contestants = {name: contestant(name, shape.op, eager, args.device) for name in wanted}
    [inputs] = inputs_for(shape, dtype, args.device, cold=False)
    expected = eager(**inputs)
    seconds = {}
    for name, run in contestants.items():
        begin = time.perf_counter()
        with ops.kernels_used() as used:
            got = run(**inputs)
        seconds[name] = time.perf_counter() - begin
        check(f"{shape}: {name}", got, expected, dtype)
    kernel = used.summary().get(shape.op, "")
    if shape.flops:
        work, rate, limit = shape.flops, gemm_peak(dtype, args.device), "arithmetic"
    else:
        work, rate, limit = nbytes(inputs) + nbytes(expected), copy_bandwidth(args.device), "memory"
    for cold in (False, True):
        every = inputs_for(shape, dtype, args.device, cold) if not args.tiny else [inputs]
        times = take_turns(contestants, every, args.rounds, args.device)
        compiling = seconds.get("torch.compile")
        yield Row(shape.op, shape.label, cold, kernel, times, compiling, work / rate, rate, limit)


HEAD = ["op", "shape", "inputs", "torch, ms", "torch.compile, ms", "pyengine, ms"]
HEAD += ["against torch", "against torch.compile", "of the bound"]


def line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def machine(args: argparse.Namespace) -> dict[str, Any]:
    """What the numbers were measured on, and how quiet it was."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x.partition(":")[2] for x in info.read_text().splitlines() if "model name" in x]
        cpu = names[0].strip() if names else cpu
    facts = {"cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads()}
    if args.device.startswith("cuda"):
        facts |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    else:
        facts["instruction set"] = ops.isa()
    facts |= {"torch": torch.__version__, "python": platform.python_version()}
    facts |= {"dtype": args.dtype, "rounds": args.rounds, "load": os.getloadavg()[0]}
    return facts


def after(rows: list[Row]) -> dict[str, Any]:
    """What is known at the end; the bounds' range shows how steady the machine was."""
    facts = {"load at the end": os.getloadavg()[0]}
    facts["peak memory, MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    compiling = [row.compile_seconds for row in rows if row.compile_seconds and not row.cold]
    if compiling:
        facts["torch.compile, s per shape"] = round(statistics.median(compiling), 1)
    for limit, unit in (("memory", "copy, GB/s"), ("arithmetic", "GEMM, GFLOP/s")):
        rates = [row.bound_rate / 1e9 for row in rows if row.limit == limit]
        if rates:
            facts[unit] = f"{min(rates):.3g} to {max(rates):.3g}"
    return facts


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.ops.table",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--ops", nargs="+", choices=sorted(SHAPES), default=FUSED, metavar="OP")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7, help="samples of each (5 or more)")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: does it work?")
    parser.add_argument("--json", type=Path, default=Path("out/bench/ops.json"))
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    facts = machine(args)
    print("; ".join(f"{name} {value}" for name, value in facts.items()), end="\n\n")
    print(line(HEAD))
    print(line(["---"] * len(HEAD)))
    rows = []
    for op in args.ops:
        for shape in (TINY if args.tiny else SHAPES)[op]:
            for row in measure(shape, DTYPES[args.dtype], args):
                rows.append(row)
                print(line(row.cells()), flush=True)
    end = after(rows)
    print("\n" + "; ".join(f"{name} {value}" for name, value in end.items()))
    args.json.parent.mkdir(parents=True, exist_ok=True)
    result = {"machine": {**facts, **end}, "rows": [row.json() for row in rows]}
    args.json.write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
