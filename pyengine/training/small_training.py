"""The training of a small model: begun, stopped and gone on with."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import RequestError
from . import parallel, recipe
from .small import RunSettings, SmallRecipe
from .small_folder import draw_grid


def train(
    small: SmallRecipe,
    *,
    data: recipe.Data = None,
    out: str | os.PathLike[str] | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    device: str = "cpu",
    threads: int | None = None,
    labels: Sequence[str] | None = None,
    styles: Sequence[str] | None = None,
    seed: int | None = None,
    batch: int | None = None,
    rate: float | None = None,
    sample_minutes: float = 15.0,
    save_seconds: float = 30.0,
    log_every: int = 50,
    settings: RunSettings | None = None,
    echo: Callable[[str], None] = print,
) -> Path:
    """Train in the folder `out`, or go on where it stopped; returns the folder.

    data: folder with train.npz, an .npz file, or pictures; default $PYENGINE_DATA. steps: of the
    whole training. minutes: stop earlier, to go on later. settings: every other number; the
    arguments above win over it.
    """
    settings = settings or RunSettings(small.settings(), styles=small.styles)
    settings = changed(settings, labels, styles, seed, steps=steps, batch=batch, rate=rate)
    kind = small.kind
    opened = recipe.open_run(kind, out or kind.out, data, threads, settings)
    before = recipe.keep_settings(opened)
    run, batches = small.load(opened, device)
    shape = settings.model
    recipe.train(
        opened,
        run,
        batches,
        before,
        shape.steps,
        seconds=None if minutes is None else 60 * minutes,
        log_every=log_every,
        echo=echo,
        draw=lambda path, run: draw_grid(small, path, run),
        sample_minutes=sample_minutes if small.draws else 0,
        cooldown=min(shape.cooldown, shape.steps),
        save_seconds=save_seconds,
    )
    return opened.folder


def changed(
    settings: RunSettings,
    labels: Sequence[str] | None,
    styles: Sequence[str] | None,
    seed: int | None,
    **numbers: float | None,
) -> RunSettings:
    """The settings with what a call says besides. numbers: fields of the model's settings.

    Raises RequestError for a number that is not positive, and a batch that cannot be shared evenly.
    """
    recipe.check_positive(**numbers)
    given = {name: value for name, value in numbers.items() if value is not None}
    model = replace(settings.model, **given)
    parallel.check_batch(model.batch)
    more = {"labels": labels, "styles": styles}
    named: dict[str, Any] = {n: tuple(value) for n, value in more.items() if value is not None}
    if seed is not None:
        if seed < 0:
            raise RequestError(f"seed: expected 0 or more, given {seed}")
        settings = replace(settings, seed=seed)
    return replace(settings, model=model, **named)
