"""A roofline plot: each contestant's speed below the limits of arithmetic and of memory.

Williams, Waterman & Patterson 2009, "Roofline: an insightful visual performance model for multicore
architectures", CACM 52(4).
"""

import statistics
from pathlib import Path
from typing import Any

from ..errors import UnavailableError
from .results import OURS, Result, Row

_MARKERS = "osD^vP*X"


def figure_class() -> type:
    """matplotlib's Figure, without a window system; raises UnavailableError where it is missing."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as e:
        raise UnavailableError(
            f"--plot needs the package {e.name}: pip install 'pyengine[bench]'"
        ) from e
    return Figure


def roofline(result: Result, path: Path, title: str) -> None:
    """Writes a PNG: work with arithmetic under the roof, the rest as bytes a second beside it."""
    rows = [row for row in result.rows if row.bound]
    if not rows:
        raise UnavailableError("--plot: the operations of this work are not counted")
    compute = [row for row in rows if row.flops]
    streams = [row for row in rows if not row.flops and row.inputs != "hot"]
    panels = [p for p in (compute and _roof, streams and _bars) if p]
    if not panels:  # hot inputs alone
        compute, panels = rows, [_roof]
    figure = figure_class()(figsize=(8 * len(panels), 6), layout="constrained")
    names = [OURS, *(name for name in result.names() if name != OURS)]
    style = {n: (f"C{i}", _MARKERS[i % len(_MARKERS)]) for i, n in enumerate(names)}
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1)
        panel(axes, compute if panel is _roof else streams, style)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, format="png", dpi=120)


def _roof(axes: Any, rows: list[Row], style: dict[str, Any]) -> None:
    """GFLOP/s over FLOP per byte, both logarithmic."""
    peak = statistics.median(row.limits.peak for row in rows) / 1e9
    bandwidth = statistics.median(row.limits.bandwidth for row in rows) / 1e9
    places = [max(row.flops, 1) / row.nbytes for row in rows]
    low, high = min(*places, peak / bandwidth) / 2, max(*places, peak / bandwidth) * 2
    edge = peak / bandwidth
    axes.plot([low, edge, high], [low * bandwidth, peak, peak], color="black", linewidth=1)
    computed = rows[0].limits.computed
    axes.text(high, peak, f"{computed} {peak:.0f} GFLOP/s", ha="right", va="bottom", fontsize=8)
    axes.text(
        low,
        low * bandwidth,
        f"{rows[0].limits.moved} {bandwidth:.1f} GB/s",
        ha="left",
        va="bottom",
        fontsize=8,
    )
    for name, (colour, marker) in style.items():
        mine = [(x, row) for x, row in zip(places, rows, strict=True) if name in row.times]
        for filled in (True, False):  # hot inputs are hollow
            some = [(x, row) for x, row in mine if (row.inputs != "hot") == filled]
            if some:
                axes.scatter(
                    [x for x, _ in some],
                    [max(row.flops, 1) / row.times[name].median / 1e9 for _, row in some],
                    marker=marker,
                    s=28,
                    edgecolors=colour,
                    facecolors=colour if filled else "none",
                    label=name if filled else f"{name}, hot",
                )
    axes.set(xscale="log", yscale="log", xlabel="FLOP per byte", ylabel="GFLOP/s")
    axes.grid(which="major", linewidth=0.3)
    axes.legend(fontsize=8, loc="lower right")


def _bars(axes: Any, rows: list[Row], style: dict[str, Any]) -> None:
    """GB/s of work that is limited by memory, compared with a copy's."""
    names = [name for name in style if any(name in row.times for row in rows)]
    height = 0.8 / len(names)
    for i, name in enumerate(names):
        some = [(y, row) for y, row in enumerate(rows) if name in row.times]
        axes.barh(
            [y + i * height for y, _ in some],
            [row.nbytes / row.times[name].median / 1e9 for _, row in some],
            height,
            color=style[name][0],
            label=name,
        )
    bandwidth = statistics.median(row.limits.bandwidth for row in rows) / 1e9
    axes.axvline(bandwidth, color="black", linewidth=1)
    axes.text(bandwidth, -0.6, f"{rows[0].limits.moved} {bandwidth:.1f}", fontsize=8, ha="center")
    axes.set_yticks([y + 0.4 for y in range(len(rows))])
    axes.set_yticklabels([f"{row.name} {row.shape}" for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("GB/s that the definition reads and writes, cold")
    axes.legend(fontsize=8)
