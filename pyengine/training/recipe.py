"""What the recipes share: a run's folder and settings, its tokenizer, training and cooldown."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RequestError
from . import captions, course, dataset, loop, parallel, tokenizer

FILE = "settings.json"
HISTORY = "history.txt"
LOG = "log.jsonl"

Data = str | os.PathLike[str] | dataset.Pictures | None
Echo = Callable[[str], None]


@dataclass(frozen=True)
class Recipe:
    """What differs between the recipes.

    settings: the dataclass of a run's settings. parts: its fields that are loop.Settings. coder:
    the field of the autoencoder or VQ-VAE, whose size is the pictures'. generator: the field, stage
    and checkpoint of the model that is conditioned on text. out: the default folder of a run.
    cooldown: the log's name of that stage; cool_steps: its default length. load: (run, device) ->
    the generator's course.Run and batches, of a run whose earlier stages are done.
    """

    settings: type
    parts: dict[str, type[loop.Settings]]
    coder: str
    generator: str
    out: str
    cooldown: str
    cool_steps: int
    load: Callable[[Opened, str], tuple[course.Run, Any]]

    @property
    def checkpoint(self) -> str:
        return f"{self.generator}.pt"

    def load_settings(self, folder: Path) -> Any:
        """The settings that a run was last trained with."""
        return load_settings(folder, self.settings, self.parts)


@dataclass(frozen=True)
class Opened:
    """A run's folder and settings, all pictures, and the rows of the run's labels and styles."""

    recipe: Recipe
    folder: Path
    settings: Any
    everything: dataset.Pictures
    rows: np.ndarray

    @property
    def chosen(self) -> dataset.Pictures:
        """The pictures of the run's labels and styles."""
        return self.everything.rows(self.rows.tolist())

    def log(self, stage: str, every: int, echo: Echo) -> loop.Log:
        return loop.Log(self.folder / LOG, stage, every, echo)


def open_run(
    recipe: Recipe, out: str | os.PathLike[str], data: Data, threads: int | None, settings: Any
) -> Opened:
    """Loads a run's pictures. settings: None for those that it was last trained with."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    folder = Path(out)
    settings = settings or recipe.load_settings(folder)
    everything, rows = load_pictures(data, settings, getattr(settings, recipe.coder).size)
    return Opened(recipe, folder, settings, everything, rows)


def train(
    opened: Opened,
    run: course.Run,
    batches: Any,
    before: Any,
    steps: int,
    *,
    seconds: float | None,
    log_every: int,
    echo: Echo,
    draw: Callable[[Path, course.Run], None],
    sample_minutes: float,
    cooldown: int = 0,
    save_seconds: float = 180.0,
) -> None:
    """Trains the generator until `steps`, or for `seconds` of this call.

    before: the settings of the last call on this run; see `keep_settings`. draw: writes a sheet of
    samples, called every sample_minutes. cooldown, save_seconds: as of course.train.
    """
    recipe, folder = opened.recipe, opened.folder
    if before is not None and run.step and parallel.first():
        note_changes(folder, run.step, before, opened.settings, (recipe.generator,))
    course.train(
        run,
        batches,
        steps,
        cooldown=cooldown,
        seconds=seconds,
        checkpoint=folder / recipe.checkpoint,
        save_seconds=save_seconds,
        log=opened.log(recipe.generator, log_every, echo),
        every_step=_sampler(folder, draw, sample_minutes),
    )


def _sampler(
    folder: Path, draw: Callable[[Path, course.Run], None], minutes: float
) -> Callable[[course.Run], None]:
    last = [time.monotonic()]

    def every_step(run: course.Run) -> None:
        if parallel.first() and minutes > 0 and time.monotonic() - last[0] > 60 * minutes:
            draw(folder / f"samples-{run.step:06d}.png", run)
            last[0] = time.monotonic()

    return every_step


def cool(
    recipe: Recipe,
    *,
    data: Data = None,
    out: str | os.PathLike[str] | None = None,
    steps: int | None = None,
    device: str = "cpu",
    threads: int | None = None,
    log_every: int = 50,
    settings: Any = None,
    echo: Echo = print,
) -> Path:
    """Branch off `steps` steps with the rate descending to zero, into cooled.pt.

    The run itself stays as it is, to go on from later.
    """
    opened = open_run(recipe, recipe.out if out is None else out, data, threads, settings)
    if not (opened.folder / recipe.checkpoint).exists():
        raise RequestError(
            f"out: expected a folder with {recipe.checkpoint}, given {str(opened.folder)!r}"
        )
    run, batches = recipe.load(opened, device)
    log = opened.log(recipe.cooldown, log_every, echo)
    steps = recipe.cool_steps if steps is None else steps
    return course.cool(run, batches, steps, opened.folder, log)


def make_tokenizer(opened: Opened) -> Any:
    """The run's tokenizer: learnt once, then read."""
    folder, shape = opened.folder / "tokenizer", getattr(opened.settings, opened.recipe.generator)
    if not (folder / "vocab.json").exists() and parallel.first():
        counts = captions.word_counts(opened.everything, set(opened.settings.labels))
        tokenizer.write(folder, counts, shape.vocabulary, shape.length)
    parallel.agree(True)  # a barrier: the first process has written the files
    return tokenizer.load(folder)


# --- settings -------------------------------------------------------------------------------------


def check_positive(**numbers: float | None) -> None:
    """Raises RequestError for an argument that is given and not positive."""
    for name, value in numbers.items():
        if value is not None and value <= 0:
            raise RequestError(f"{name}: expected a positive number, given {value}")


def keep_settings(opened: Opened) -> Any:
    """Keeps the run's settings beside its checkpoints; returns those that were there, or None."""
    folder = opened.folder
    before = opened.recipe.load_settings(folder) if (folder / FILE).exists() else None
    parallel.agree(True)  # a barrier: all have read the file
    if parallel.first():
        save_settings(folder, opened.settings)
    return before


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

    def restore(kind: type, value: dict[str, Any]) -> Any:
        lists = {key: tuple(item) for key, item in value.items() if isinstance(item, list)}
        return kind(**(value | lists))

    try:
        value = json.loads(file.read_text(encoding="utf-8"))
        inner = {name: restore(part, value[name]) for name, part in parts.items()}
        return restore(kind, value | inner)
    except (ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{FILE}: expected the settings of a run, given {error}") from error


def note_changes(folder: Path, step: int, before: Any, now: Any, parts: tuple[str, ...]) -> None:
    """Add the settings that a resumed run changes to history.txt, for its card."""

    def flat(settings: Any) -> dict[str, Any]:
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
    """The lines of history.txt; none where no setting was ever changed."""
    file = folder / HISTORY
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


def pictures_seen(steps: int, batch: int, history: Sequence[str]) -> int:
    """By `steps` steps, the last of `batch` pictures, of a run whose batch changed as its history
    says.
    """
    changes = re.findall(r"^step ([\d,]+): batch from (\d+) to \d+$", "\n".join(history), re.M)
    seen, begin = 0, 0
    for at, before in changes:
        end = int(at.replace(",", ""))
        seen, begin = seen + (end - begin) * int(before), end
    return seen + (steps - begin) * batch


# --- pictures -------------------------------------------------------------------------------------


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
