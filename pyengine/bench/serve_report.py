"""What `pyengine bench serve` shows: a table, lines, JSON and a plot."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .plot import figure_class
from .serve import IN_TIME, Load, Result, Work


def table(result: Result) -> Any:
    """A rich table in Markdown's form: a row for each contestant and load."""
    from rich import box
    from rich.table import Table

    heads = (
        "server",
        "load",
        "requests",
        "done",
        "refused",
        "p50, s",
        "p95, s",
        "p99, s",
        "p50 of short ones, s",
        "goodput, 1/s",
        "of capacity",
        f"within {IN_TIME:g}x alone",
    )
    found = Table(*heads, box=box.MARKDOWN)
    for load in result.loads:
        refused = str(load.refused + load.gave_up)
        if load.refused_within is not None:
            refused += f" (99% in {load.refused_within * 1e3:.0f} ms)"
        times = [_seconds(load.seconds[key]) for key in ("p50", "p95", "p99", "short p50")]
        found.add_row(
            load.contestant,
            f"{load.times_capacity:g}x",
            str(load.offered),
            str(load.done),
            refused,
            *times,
            f"{load.goodput:.2f}",
            f"{load.goodput / result.capacity:.0%}",
            f"{load.in_time:.0%}",
        )
    return found


def _seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"


def lines(result: Result) -> list[str]:
    """What stands below the table."""
    alone = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in result.alone.items())
    found = [f"capacity {result.capacity:.2f} requests a second; alone: {alone}"]
    found += [_held(load) for load in result.loads if load.before is not None]
    for point in result.soak:
        held = f"{point['threads']:.0f} threads, {point['files']:.0f} files"
        found.append(
            f"after {point['requests']:.0f} small requests: {point['memory'] / 1e6:.1f} MB, {held}"
        )
    found += [f"not measured: {name}: {why}" for name, why in result.missing.items()]
    return found


def _held(load: Load) -> str:
    assert load.before is not None
    assert load.after is not None
    return (
        f"{load.contestant} at {load.times_capacity:g}x: {load.before.memory / 1e6:.0f} MB"
        f" before, {load.after.memory / 1e6:.0f} MB after; {load.after.threads} threads,"
        f" {load.after.files} files; {load.after.cpu - load.before.cpu:.1f} s of CPU, and"
        f" {load.client_cpu:.1f} s of the client, which sent 99% within"
        f" {load.client_late * 1e3:.0f} ms"
    )


def plain(result: Result, work: Work, machine: dict[str, Any]) -> dict[str, Any]:
    """The result for JSON, where NaN, of no requests, is null."""
    found: dict[str, Any] = _finite(asdict(result))
    return {"machine": machine, "work": asdict(work), **found}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plot(result: Result, path: Path, title: str) -> None:
    """Writes a PNG: seconds and goodput over the load, a line for each contestant."""
    figure = figure_class()(figsize=(13, 5), layout="constrained")
    seconds, goodput = figure.subplots(1, 2)
    names = list(dict.fromkeys(load.contestant for load in result.loads))
    for i, name in enumerate(names):
        loads = sorted(
            (x for x in result.loads if x.contestant == name), key=lambda load: load.times_capacity
        )
        places = [load.times_capacity for load in loads]
        for key, style in (("short p50", "-"), ("p99", ":")):
            values = [load.seconds[key] for load in loads]
            seconds.plot(places, values, style, color=f"C{i}", marker="o", label=f"{name}, {key}")
        goodput.plot(
            places, [load.goodput for load in loads], color=f"C{i}", marker="o", label=name
        )
    goodput.axhline(result.capacity, color="black", linewidth=0.5)
    seconds.set(xscale="log", yscale="log", xlabel="load, of capacity", ylabel="seconds")
    goodput.set(xscale="log", xlabel="load, of capacity", ylabel="requests done a second")
    for axes in (seconds, goodput):
        axes.grid(which="major", linewidth=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, format="png", dpi=120)
