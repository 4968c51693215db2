"""Results of a benchmark: rows, as a table and as JSON."""

from dataclasses import dataclass, field
from typing import Any

from .timing import Limits, Times

OURS = "pyengine"


@dataclass
class Row:
    """One piece of work and each contestant's times for it.

    suite: ops | unet | vae | pipeline | token. name: op or model. inputs: "hot", "cold" or "".
    flops, nbytes: what the definition needs; 0 where it was not counted. limits: the machine's, of
    that minute. kernels: op -> what ran for us. facts: contestant -> load_seconds,
    first_call_seconds, peak_bytes and others.
    """

    suite: str
    name: str
    shape: str
    inputs: str
    flops: int
    nbytes: int
    limits: Limits
    times: dict[str, Times]
    kernels: dict[str, str] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def bound(self) -> float:
        return self.limits.bound(self.flops, self.nbytes)

    @property
    def limited_by(self) -> str:
        return self.limits.limited_by(self.flops, self.nbytes)

    def share(self, name: str) -> float | None:
        """Bound over time; None where that is not known: of work that was not counted, and of hot
        inputs limited by memory, since they are cached.
        """
        if not self.bound or (self.inputs == "hot" and self.limited_by == "memory"):
            return None
        return self.bound / self.times[name].median

    def json(self) -> dict[str, Any]:
        times = {
            name: {
                "median": t.median,
                "spread": t.spread,
                "samples": list(t.samples),
                "of_bound": self.share(name),
            }
            for name, t in self.times.items()
        }
        ours = self.times[OURS].median
        return {
            "suite": self.suite,
            "name": self.name,
            "shape": self.shape,
            "inputs": self.inputs,
            "flops": self.flops,
            "bytes": self.nbytes,
            "bound_seconds": self.bound,
            "limited_by": self.limited_by,
            "peak_flops_per_second": self.limits.peak,
            "peak_of": self.limits.computed,
            f"{self.limits.moved}_bytes_per_second": self.limits.bandwidth,
            "kernels": self.kernels,
            "times": times,
            "faster_than": {n: t.median / ours for n, t in self.times.items() if n != OURS},
            "facts": self.facts,
        }


@dataclass
class Result:
    """Rows, and the reasons for which peers that were asked for are missing."""

    rows: list[Row] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Contestants in the order of their first row, ours last."""
        found = dict.fromkeys(name for row in self.rows for name in row.times if name != OURS)
        return [*found, OURS]

    def json(self, machine: dict[str, Any]) -> dict[str, Any]:
        return {
            "machine": machine,
            "missing": self.missing,
            "rows": [row.json() for row in self.rows],
        }


# --- text -----------------------------------------------------------------------------------------


def table(result: Result) -> Any:
    """A rich table in Markdown's form, for the terminal and for docs/log."""
    from rich import box
    from rich.table import Table

    names = result.names()
    peers = [name for name in names if name != OURS]
    hot = any(row.inputs for row in result.rows)
    heads = ["work", "shape", *(["inputs"] if hot else [])]
    heads += [f"{name}, ms" for name in names]
    heads += [f"against {name}" for name in peers]
    heads += ["bound, ms", "of the bound"]
    found = Table(*heads, box=box.MARKDOWN)
    for row in result.rows:
        found.add_row(*_cells(row, names, peers, hot))
    return found


def _cells(row: Row, names: list[str], peers: list[str], hot: bool) -> list[str]:
    cells = [row.name, row.shape, *([row.inputs or "-"] if hot else [])]
    for name in names:
        times = row.times.get(name)
        cells.append("-" if times is None else f"{_ms(times.median)} ±{times.spread:.0%}")
    ours = row.times[OURS].median
    for name in peers:
        times = row.times.get(name)
        cells.append("-" if times is None else f"{times.median / ours:.2f}x")
    share = row.share(OURS)
    limit = row.limits.computed if row.limited_by == "arithmetic" else row.limits.moved
    cells.append(f"{_ms(row.bound)} ({limit})" if row.bound else "-")
    cells.append("-" if share is None else f"{share:.0%}")
    return cells


def _ms(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


#: Facts of a contestant: label and format.
_FACTS = {
    "convert_seconds": ("converted in", "{:.1f} s"),
    "load_seconds": ("loaded in", "{:.2f} s"),
    "compile_seconds": ("compiled in", "{:.1f} s a shape"),
    "first_call_seconds": ("first call", "{:.2f} s"),
    "prompt_seconds": ("once a prompt", "{:.3f} s"),
    "first_step_begins": ("load to first step", "{:.2f} s"),
    "precision": ("computes in", "{}"),
    "relative_l2": ("relative L2 from the reference", "{:.1e}"),
    "passes_per_token": ("passes per token", "{:.3f}"),
    "psnr": ("PSNR against the reference", "{:.1f} dB"),
}


def details(result: Result) -> list[str]:
    """A line for each contestant of each row that has facts, and one for each missing peer."""
    lines = []
    for row in result.rows:
        for name, facts in row.facts.items():
            parts = [
                f"{label} {form.format(facts[key])}"
                for key, (label, form) in _FACTS.items()
                if facts.get(key) is not None
            ]
            for key, where in (("peak_bytes", ""), ("peak_gpu_bytes", " of the GPU")):
                if facts.get(key):
                    parts.append(f"peak memory{where} {facts[key] / 1e9:.2f} GB")
            lines.append(f"{row.name} {row.shape}: {name}: {', '.join(parts)}")
    lines += [f"not measured: {name}: {why}" for name, why in result.missing.items()]
    return lines


def ceilings(result: Result) -> str:
    """The machine's limits over the run, smallest to largest."""
    limits, rates = [row.limits for row in result.rows], []
    computed = "/".join(sorted({found.computed for found in limits}))
    for what, unit, values in (
        (computed, "GFLOP/s", [found.peak for found in limits]),
        (limits[0].moved, "GB/s", [found.bandwidth for found in limits]),
    ):
        low, high = min(values) / 1e9, max(values) / 1e9
        span = f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
        rates.append(f"{what} {span} {unit}")
    return "; ".join(rates)
