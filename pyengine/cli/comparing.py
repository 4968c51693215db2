"""`pyengine compare`: a sheet of every family's picture, and the table of what they took."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..images import save_atomically
from ..pipelines.loading import from_pretrained
from ..pipelines.shipped_guides import CLASSIFIER
from . import concepts, files


@dataclass(frozen=True)
class Options:
    """The command's options as compare.py declares them."""

    prompt: str
    output: Path
    families: str | None
    number: int
    seed: int
    trajectory: bool
    guidance: bool
    model: str
    device: str
    json: bool


def run(o: Options) -> int:
    if o.output.suffix != ".png":
        raise RequestError(f"output: expected a .png file, given {o.output.name!r}")
    files.check_writable(o.output)
    return _guided(o) if o.guidance else _compared(o)


def _compared(o: Options) -> int:
    from ..compare import families, sheet, trajectory

    names = None
    if o.families is not None:
        names = [name.strip() for name in o.families.split(",") if name.strip()]
    seeds = [o.seed + i for i in range(o.number)]
    drawn, ways = [], []
    for model in families.chosen(names):
        pipe = from_pretrained(model, device=o.device)
        drawn.append(families.draw(pipe, model, o.prompt, seeds))
        if o.trajectory:
            ways.append((model, trajectory.frames_of(pipe, o.prompt, o.seed)))
    written = [save_atomically(sheet.sheet_of(drawn), o.output)]
    if o.trajectory:
        path = o.output.with_name(f"{o.output.stem}-trajectory.png")
        written.append(save_atomically(trajectory.strip(ways), path))
        trajectory.animate(ways, path.with_suffix(".webp"))
        written.append(path.with_suffix(".webp"))
    rows = [d.row() for d in drawn]
    if o.json:
        print(json.dumps({"prompt": o.prompt, "files": [str(f) for f in written], "rows": rows}))
    else:
        _show(rows)
        print("\n".join(map(str, written)))
    return 0


def _guided(o: Options) -> int:
    from ..compare import guidance

    if o.families is not None or o.trajectory or o.number > 1:
        raise RequestError("guidance: expected without --families, --trajectory and --number")
    pipe = from_pretrained(o.model, device=o.device)
    labels = concepts.of_guide(CLASSIFIER) if guidance.fits(pipe) else []
    ways = guidance.ways(o.prompt, concepts.named(o.prompt, labels))
    rows = guidance.draw(pipe, o.prompt, o.seed, ways)
    written = save_atomically(guidance.sheet_of(rows, ways), o.output)
    if o.json:
        found = [{"guidance": way.name, "scales": list(way.scales)} for way in ways]
        print(json.dumps({"prompt": o.prompt, "files": [str(written)], "rows": found}))
    else:
        print(written)
    return 0


def _show(rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    columns = {
        "model": "{}", "seconds": "{:.3f}", "evaluations": "{}", "parameters": "{:,}",
        "top1": "{:.1%}", "top5": "{:.1%}", "frechet_distance": "{:.1f}", "clip_score": "{:.1f}",
        "precision": "{:.1%}", "recall": "{:.1%}",
    }  # fmt: skip
    for name in columns:
        table.add_column(name.replace("_", " "), justify="left" if name == "model" else "right")
    for row in rows:
        table.add_row(*(form.format(row[n]) if n in row else "-" for n, form in columns.items()))
    Console(width=120).print(table)
