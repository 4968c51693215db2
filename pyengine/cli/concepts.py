"""Labels that a model was trained on, one a line in its checkpoint's concepts.txt, and hints."""

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import RequestError
from ..pipelines.loading import find_checkpoint
from ..pipelines.shipped_names import ASSETS

#: How many things a hint names.
NAMED = 5


def run(
    model: str | None, variant: str | None, as_json: bool, ignored: list[str] | None = None
) -> int:
    """`pyengine info --concepts`."""
    checkpoint, source = find_checkpoint(model, variant, {"ignore_config_keys": ignored or ()})
    labels = of(checkpoint)
    if not labels:
        raise RequestError(f"concepts: {source} has no concepts.txt that would list them")
    print(json.dumps({"model": source, "concepts": labels}) if as_json else "\n".join(labels))
    return 0


def file_of(checkpoint: Any) -> Path | None:
    """A checkpoint's concepts.txt; None for most."""
    folder = getattr(checkpoint, "folder", None)
    path = None if folder is None else Path(folder) / "concepts.txt"
    return path if path is not None and path.is_file() else None


def of(checkpoint: Any) -> list[str]:
    """The labels of a checkpoint; none for most."""
    path = file_of(checkpoint)
    if path is None:
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def of_guide(name: str) -> list[str]:
    """The labels of a model that ships and guides others; none where it does not ship."""
    path = ASSETS / name / "concepts.txt"
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def hint(prompt: str, labels: Sequence[str], model: str) -> str | None:
    """A hint for a prompt without any of the labels; None where one is in it."""
    if not labels or knows(prompt, labels):
        return None
    near = ", ".join(nearest(prompt, labels))
    return (
        f"{model} knows {len(labels)} things and none of them in this prompt; the nearest are"
        f" {near} (all: pyengine info {model} --concepts)"
    )


def knows(prompt: str, labels: Sequence[str]) -> bool:
    """Whether all words of some label follow each other in the prompt."""
    return named(prompt, labels) is not None


def named(prompt: str, labels: Sequence[str]) -> int | None:
    """The place of the label whose words follow each other in the prompt, the longest where there
    are several; None where there is none.
    """
    text = f" {' '.join(_words(prompt))} "
    found = [i for i, label in enumerate(labels) if f" {' '.join(_words(label))} " in text]
    return max(found, key=lambda i: len(_words(labels[i])), default=None)


def nearest(prompt: str, labels: Sequence[str], count: int = NAMED) -> list[str]:
    """The labels most similar to the prompt, by spelling of their words; ties in listed order."""
    words = [word for word in _words(prompt) if word not in _LITTLE]

    def likeness(label: str) -> float:
        theirs = _words(label)
        best = [
            max((difflib.SequenceMatcher(None, mine, other).ratio() for mine in words), default=0.0)
            for other in theirs
        ]
        # Low ratios are chance, as of "cat" and "clap".
        alike = sum(score**3 for score in best if score >= _ALIKE)
        return float(alike / len(theirs) ** 0.5 + 0.1 * max(best, default=0.0))

    return sorted(labels, key=likeness, reverse=True)[:count]


_ALIKE = 0.7
_LITTLE = {"a", "an", "the", "of", "with", "on", "in", "and", "emoji", "style"}


def _words(text: str) -> list[str]:
    """Lower case, without a plural's s: "two Hearts!" -> two, heart."""
    words = re.findall(r"[^\W_]+", text.casefold())
    return [w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in words]
