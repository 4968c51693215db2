"""An exported model's folder: choice of weights, texts beside them, atomic replacement."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import RequestError
from . import course, recipe, samples
from .card import NOTICE

Evaluation = str | os.PathLike[str] | None


def choose_weights(folder: Path, weights: str, run: str) -> Path:
    """The checkpoint that `weights` names; run: the file name of the uncooled one."""
    average, cooled = folder / run, folder / "cooled.pt"
    if weights not in ("auto", "average", "cooled"):
        raise RequestError(f"weights: expected auto, average or cooled, given {weights!r}")
    if weights == "auto":
        newer = cooled.exists() and (
            not average.exists() or cooled.stat().st_mtime >= average.stat().st_mtime
        )
        weights = "cooled" if newer else "average"
    chosen = cooled if weights == "cooled" else average
    if not chosen.exists():
        raise RequestError(f"run: expected a folder with {chosen.name}, given {str(folder)!r}")
    return chosen


def tidy_config(config: Path) -> None:
    """Take out local paths; say float32.

    transformers would load the files' float16 where diffusers loads float32.
    """
    value = json.loads(config.read_text(encoding="utf-8"))
    value.pop("_name_or_path", None)
    if "dtype" in value or "torch_dtype" in value:
        value.pop("torch_dtype", None)
        value["dtype"] = "float32"
    config.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def log_records(run: Path) -> list[dict[str, Any]]:
    """The records of the run's log; none without a log."""
    log = run / recipe.LOG
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def hours(seconds: float) -> float:
    return round(seconds / 3600, 2)


def count(module: Any) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def write_words(
    folder: Path,
    run: Path,
    kind: recipe.Recipe,
    trained: course.Run,
    settings: Any,
    evaluation: Evaluation,
    *,
    curves: tuple[str, ...],
    card: Callable[[dict[str, Any]], str],
    notice: str = NOTICE,
    **more: Any,
) -> None:
    """concepts.txt, NOTICE, curves.png, training.json and the card.

    evaluation: a file of :func:`.evaluate.write`. curves: measures of the generator that are drawn.
    card: the text of facts. notice: the text of NOTICE. more: facts of this kind of model.
    """
    (folder / "concepts.txt").write_text("\n".join(settings.labels) + "\n", encoding="utf-8")
    (folder / "NOTICE").write_text(notice, encoding="utf-8")
    stages = [r for r in log_records(run) if r["stage"] in (kind.generator, kind.cooldown)]
    samples.save_png(folder / "curves.png", samples.curve(stages, curves))
    history = recipe.load_history(run)
    batch = trained.networks.settings.batch
    facts = {
        "seed": settings.seed,
        "styles": list(settings.styles),
        "labels": len(settings.labels),
        "steps": trained.step,
        "cooled": trained.cooled,
        "samples": recipe.pictures_seen(trained.step, batch, history),
        "hours": hours(trained.seconds),
        **more,
        "history": history,
        "evaluation": None if evaluation is None else json.loads(Path(evaluation).read_text()),
    }
    write_json(folder / "training.json", facts)
    (folder / "README.md").write_text(card(facts), encoding="utf-8")


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Within the block an empty folder beside `target`, which then takes its place in one rename;
    the old folder is gone only after the new one is in place.
    """
    new = target.with_name(target.name + ".partial")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    yield new
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(old, ignore_errors=True)
