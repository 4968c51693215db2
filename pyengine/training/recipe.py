"""What the recipes share: choosing pictures, and keeping a run's settings and their changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RequestError
from . import dataset

FILE = "settings.json"
HISTORY = "history.txt"


def save_settings(folder: Path, settings: Any) -> None:
    """Keep the run's settings, a dataclass, beside its checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(settings), indent=2, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def load_settings(folder: Path, kind: type, parts: dict[str, type]) -> Any:
    """The settings that a run was last trained with; parts: fields that are dataclasses too."""
    file = folder / FILE
    if not file.is_file():
        raise RequestError(f"run: expected a folder with {FILE}, given {str(folder)!r}")

    def restore(kind: type, value: dict) -> Any:
        lists = {key: tuple(item) for key, item in value.items() if isinstance(item, list)}
        return kind(**(value | lists))

    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        inner = {name: restore(part, value[name]) for name, part in parts.items()}
        return restore(kind, value | inner)
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{FILE}: expected the settings of a run, given {error}") from error


def note_changes(folder: Path, step: int, before: Any, now: Any, parts: Sequence[str]) -> None:
    """Add to the run's history.txt what a resumed run does otherwise, for its card."""

    def flat(settings: Any) -> dict:
        values = asdict(settings)
        for part in parts:
            values |= asdict(getattr(settings, part))
        return values

    old, new = flat(before), flat(now)
    changes = []
    for name in sorted(old):
        if old[name] == new[name] or isinstance(old[name], dict):
            continue
        many = isinstance(old[name], (list, tuple)) and len(str(old[name]) + str(new[name])) > 80
        was, becomes = (f"{len(s[name])} items" if many else str(s[name]) for s in (old, new))
        changes.append(f"step {step:,}: {name} from {was} to {becomes}\n")
    if changes:
        with (folder / HISTORY).open("a", encoding="utf-8") as file:
            file.writelines(changes)


def load_history(folder: Path) -> list[str]:
    """What changed in the course of a run, a line each; empty for one that was never changed."""
    file = folder / HISTORY
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def choose_rows(everything: dataset.Pictures, settings: Any) -> np.ndarray:
    """Rows of the settings' labels and styles."""
    labels, styles = set(settings.labels), set(settings.styles)
    pairs = zip(everything.labels, everything.styles, strict=True)
    return np.array(
        [i for i, (label, style) in enumerate(pairs) if label in labels and style in styles],
        np.int64,
    )


def load_pictures(data: Any, settings: Any, side: int) -> tuple[dataset.Pictures, np.ndarray]:
    """All pictures, and the rows of those of the run's labels and styles."""
    everything = data if isinstance(data, dataset.Pictures) else dataset.load(data)
    if everything.images.shape[1:3] != (side, side):
        height, width = everything.images.shape[1:3]
        raise dataset.DataError(f"images: expected {side}x{side} pictures, given {height}x{width}")
    rows = choose_rows(everything, settings)
    if not len(rows):
        raise dataset.DataError(
            "labels: expected some of the data's labels in styles "
            f"{', '.join(settings.styles)}, given none of them"
        )
    return everything, rows
