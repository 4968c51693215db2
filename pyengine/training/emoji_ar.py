"""`pyengine train emoji-ar`: trains a small DALL-E, text and picture tokens in one transformer.

Stages, each resumed where it stopped: VQ-VAE, tokenizer, the pictures' tokens,
transformer; then :func:`cool` and :func:`sharpen`.  The settings' defaults are those
of the model that ships.  The run's folder holds vq.pt, tokenizer/, tokens.npz, gpt.pt,
cooled.pt, decoder.pt, log.jsonl and grids of samples; :mod:`.export_ar` makes the
model folder of it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RequestError
from . import course, dataset, gpt, loop, parallel, recipe, samples_ar, tokenizer, vq_decoder
from . import vq_autoencoder as vq
from .concepts import CONCEPTS

STYLES = ("fluent-3d",)


@dataclass(frozen=True)
class EmojiARSettings:
    """All settings of a run."""

    vq: vq.VQSettings = field(default_factory=vq.VQSettings)
    gpt: gpt.GPTSettings = field(default_factory=gpt.GPTSettings)
    labels: tuple[str, ...] = CONCEPTS
    styles: tuple[str, ...] = STYLES
    seed: int = 1

    def __post_init__(self) -> None:
        given, expected = (self.gpt.codes, self.gpt.side), (self.vq.entries, self.vq.side)
        if given != expected:
            raise RequestError(f"gpt: codes, side: expected {expected} of vq, given {given}")


def train(
    *,
    data: recipe.Data = None,
    out: str | os.PathLike[str] = "emoji-ar-run",
    steps: int = 4600,
    minutes: float | None = None,
    device: str = "cpu",
    threads: int | None = None,
    labels: Sequence[str] | None = None,
    seed: int | None = None,
    batch: int | None = None,
    rate: float | None = None,
    vq_steps: int | None = None,
    sample_minutes: float = 15.0,
    log_every: int = 50,
    settings: EmojiARSettings | None = None,
    echo: Callable[[str], None] = print,
) -> Path:
    """Train in the folder `out`, or go on where it stopped; returns the folder.

    data: folder with train.npz, an .npz file, or pictures; default $PYENGINE_DATA.
    steps: of the transformer, counted from its beginning; vq_steps: of the VQ-VAE.
    minutes: stop earlier.  settings: shapes and every other number; the other
    arguments win over it.
    """
    began = time.monotonic()
    settings = _settings(settings, labels, seed, batch, rate, vq_steps)
    opened = recipe.open_run(RECIPE, out, data, threads, settings)
    folder, before = opened.folder, recipe.keep_settings(opened)

    def seconds_left() -> float | None:
        return None if minutes is None else began + 60 * minutes - time.monotonic()

    model = vq.train(
        opened.everything,
        opened.rows,
        folder,
        settings.vq,
        seed=settings.seed,
        device=device,
        log_every=log_every,
        seconds=seconds_left(),
        echo=echo,
    )
    if loop.load_checkpoint(folder / f"{vq.STAGE}.pt")["step"] < settings.vq.steps:
        return folder
    tokens = recipe.make_tokenizer(opened)
    run, batches = prepare(folder, settings, opened.chosen, model, tokens, device)
    recipe.train(
        opened,
        run,
        batches,
        before,
        steps,
        seconds=seconds_left(),
        log_every=log_every,
        echo=echo,
        draw=lambda path, run: samples_ar.draw_grid(path, run, model, folder / "tokenizer"),
        sample_minutes=sample_minutes,
    )
    return folder


def sharpen(
    *,
    data: recipe.Data = None,
    out: str | os.PathLike[str] = "emoji-ar-run",
    steps: int = 2000,
    rate: float = 1e-3,
    device: str = "cpu",
    threads: int | None = None,
    log_every: int = 50,
    echo: Callable[[str], None] = print,
) -> Path:
    """Train the decoder further on the run's own pictures, into decoder.pt; tokens stay valid."""
    opened = recipe.open_run(RECIPE, out, data, threads, None)
    folder, settings, chosen = opened.folder, opened.settings, opened.chosen
    shape = replace(settings.vq, rate=rate)
    model = vq.load(folder, settings.vq, device)
    tokens = make_tokens(model, chosen, folder, settings)
    batches = vq_decoder.Batches(
        np.concatenate(views(chosen.images, settings.gpt, settings.seed)),
        np.concatenate(tokens),
        model.quantize.embedding.weight.detach(),
        shape,
        settings.seed,
        device,
    )
    log = opened.log(vq_decoder.STAGE, log_every, echo)
    return vq_decoder.train(model, batches, folder, steps, log)


def views(images: np.ndarray, settings: gpt.GPTSettings, seed: int) -> np.ndarray:
    """Versions [N, views, H, W, 3] of pictures: as they are, mirrored, then mirrored or moved."""
    numbers = loop.numbers(seed, "views", 0)
    plain = [images, images[:, :, ::-1]][: settings.views]
    count = settings.views - len(plain)
    varied = [vq.vary(images, settings.shift, numbers) for _ in range(count)]
    return np.stack([*plain, *varied], axis=1)


def make_tokens(
    model: Any, chosen: dataset.Pictures, folder: Path, settings: EmojiARSettings
) -> np.ndarray:
    """The pictures' tokens, int32 [N, views, h, w]; cached in tokens.npz while nothing changes."""
    path = folder / "tokens.npz"
    trained = loop.load_checkpoint(folder / f"{vq.STAGE}.pt")["step"]
    made_of = [trained, settings.gpt.views, settings.gpt.shift, settings.seed, len(chosen)]
    if path.exists():
        with np.load(path, allow_pickle=False) as kept:
            if kept["made_of"].tolist() == made_of:
                return np.asarray(kept["tokens"])
    many = views(chosen.images, settings.gpt, settings.seed)
    side = settings.vq.side
    tokens: np.ndarray = (
        vq.encode(model, many.reshape(-1, *many.shape[2:])).numpy().astype(np.int32)
    )
    tokens = tokens.reshape(len(chosen), -1, side, side)
    if parallel.first():
        partial = path.with_name("tokens.partial.npz")
        np.savez_compressed(partial, tokens=tokens, made_of=np.array(made_of))
        os.replace(partial, path)
    return tokens


def prepare(
    folder: Path,
    settings: EmojiARSettings,
    chosen: dataset.Pictures,
    model: Any,
    tokens: Any,
    device: str,
) -> tuple[course.Run, gpt.Batches]:
    """The transformer's run and batches; its vocabulary is the tokenizer's."""
    shape = replace(settings.gpt, vocabulary=len(tokens))
    run = gpt.start(folder / "gpt.pt", shape, settings.seed, device)
    codes = make_tokens(model, chosen, folder, settings)
    texts = gpt.text_cache(tokens, shape.length)
    return run, gpt.Batches(chosen, codes, texts, shape, settings.seed, device)


def _settings(
    settings: EmojiARSettings | None,
    labels: Sequence[str] | None,
    seed: int | None,
    batch: int | None,
    rate: float | None,
    vq_steps: int | None,
) -> EmojiARSettings:
    settings = settings or EmojiARSettings()
    recipe.check_positive(batch=batch, rate=rate, vq_steps=vq_steps)
    if labels is not None:
        settings = replace(settings, labels=tuple(labels))
    if seed is not None:
        settings = replace(settings, seed=seed)
    shape, coder = settings.gpt, settings.vq
    shape = replace(shape, batch=batch or shape.batch, rate=rate or shape.rate)
    return replace(settings, gpt=shape, vq=replace(coder, steps=vq_steps or coder.steps))


def _load(opened: recipe.Opened, device: str) -> tuple[course.Run, gpt.Batches]:
    folder, settings = opened.folder, opened.settings
    model = vq.load(folder, settings.vq, device)
    tokens = tokenizer.load(folder / "tokenizer")
    return prepare(folder, settings, opened.chosen, model, tokens, device)


RECIPE = recipe.Recipe(
    settings=EmojiARSettings,
    parts={"vq": vq.VQSettings, "gpt": gpt.GPTSettings},
    coder="vq",
    generator=gpt.STAGE,
    out="emoji-ar-run",
    cooldown="gpt-cooldown",
    cool_steps=500,
    load=_load,
)
load_settings = RECIPE.load_settings
cool = partial(recipe.cool, RECIPE)
