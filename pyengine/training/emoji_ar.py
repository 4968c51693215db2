"""`pyengine train emoji-ar`: from pictures to a small DALL-E, text and picture tokens in one model.

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
from pathlib import Path

import numpy as np

from ..errors import RequestError
from . import captions, course, dataset, gpt, loop, parallel, recipe, tokenizer, vq_decoder
from . import vq_autoencoder as vq
from .concepts import CONCEPTS

STYLES = ("fluent-3d",)


@dataclass(frozen=True)
class EmojiARSettings:
    """Everything that a run is made of."""

    vq: vq.VQSettings = field(default_factory=vq.VQSettings)
    gpt: gpt.GPTSettings = field(default_factory=gpt.GPTSettings)
    labels: tuple[str, ...] = CONCEPTS
    styles: tuple[str, ...] = STYLES
    seed: int = 1

    def __post_init__(self):
        given, expected = (self.gpt.codes, self.gpt.side), (self.vq.entries, self.vq.side)
        if given != expected:
            raise RequestError(f"gpt: codes, side: expected {expected} of vq, given {given}")


def train(
    *,
    data: str | os.PathLike[str] | dataset.Pictures | None = None,
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
    import torch

    if threads:
        torch.set_num_threads(threads)
    folder, began = Path(out), time.monotonic()
    settings = _settings(settings, labels, seed, batch, rate, vq_steps)
    everything, rows = recipe.load_pictures(data, settings, settings.vq.size)
    before = load_settings(folder) if (folder / recipe.FILE).exists() else None
    parallel.agree(True)  # nobody writes the file before all have read it
    if parallel.first():
        recipe.save_settings(folder, settings)
    until = None if minutes is None else began + 60 * minutes
    model = vq.train(
        everything,
        rows,
        folder,
        settings.vq,
        seed=settings.seed,
        device=device,
        log_every=log_every,
        until=until,
        echo=echo,
    )
    if loop.load_checkpoint(folder / f"{vq.STAGE}.pt")["step"] < settings.vq.steps:
        return folder
    tokens = make_tokenizer(everything, folder, settings)
    run, batches = prepare(folder, settings, everything.rows(rows.tolist()), model, tokens, device)
    if before is not None and run.step and parallel.first():
        recipe.note_changes(folder, run.step, before, settings, ("gpt",))
    course.train(
        run,
        batches,
        steps,
        seconds=None if until is None else until - time.monotonic(),
        checkpoint=folder / "gpt.pt",
        log=loop.Log(folder / "log.jsonl", gpt.STAGE, log_every, echo),
        every_step=_sampler(folder, model, sample_minutes),
    )
    return folder


def cool(
    *,
    data: str | os.PathLike[str] | dataset.Pictures | None = None,
    out: str | os.PathLike[str] = "emoji-ar-run",
    steps: int = 500,
    device: str = "cpu",
    threads: int | None = None,
    log_every: int = 50,
    echo: Callable[[str], None] = print,
) -> Path:
    """Branch off `steps` steps with the rate descending to zero, into cooled.pt.

    The run itself stays as it is, to go on from later.
    """
    import torch

    if threads:
        torch.set_num_threads(threads)
    folder = Path(out)
    settings = load_settings(folder)
    if not (folder / "gpt.pt").exists():
        raise RequestError(f"out: expected a folder with gpt.pt, given {str(folder)!r}")
    everything, rows = recipe.load_pictures(data, settings, settings.vq.size)
    model = vq.load(folder, settings.vq, device)
    tokens = tokenizer.load(folder / "tokenizer")
    run, batches = prepare(folder, settings, everything.rows(rows.tolist()), model, tokens, device)
    log = loop.Log(folder / "log.jsonl", "gpt-cooldown", log_every, echo)
    return course.cool(run, batches, steps, folder, log)


def sharpen(
    *,
    data: str | os.PathLike[str] | dataset.Pictures | None = None,
    out: str | os.PathLike[str] = "emoji-ar-run",
    steps: int = 2000,
    rate: float = 1e-3,
    device: str = "cpu",
    threads: int | None = None,
    log_every: int = 50,
    echo: Callable[[str], None] = print,
) -> Path:
    """Train the decoder further on what the model draws, into decoder.pt; the tokens stay."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    folder = Path(out)
    settings = load_settings(folder)
    everything, rows = recipe.load_pictures(data, settings, settings.vq.size)
    chosen, shape = everything.rows(rows.tolist()), replace(settings.vq, rate=rate)
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
    log = loop.Log(folder / "log.jsonl", vq_decoder.STAGE, log_every, echo)
    return vq_decoder.train(model, batches, folder, steps, log)


def load_settings(folder: Path) -> EmojiARSettings:
    """The settings that a run was last trained with."""
    parts = {"vq": vq.VQSettings, "gpt": gpt.GPTSettings}
    return recipe.load_settings(folder, EmojiARSettings, parts)


def make_tokenizer(everything: dataset.Pictures, folder: Path, settings: EmojiARSettings):
    """The run's tokenizer: learnt once, then read."""
    place = folder / "tokenizer"
    if not (place / "vocab.json").exists() and parallel.first():
        counts = captions.word_counts(everything, set(settings.labels))
        tokenizer.write(place, counts, settings.gpt.vocabulary, settings.gpt.length)
    parallel.agree(True)  # nobody reads the files before the first process has written them
    return tokenizer.load(place)


def views(images: np.ndarray, settings: gpt.GPTSettings, seed: int) -> np.ndarray:
    """Versions [N, views, H, W, 3] of pictures: as they are, mirrored, then mirrored or moved."""
    numbers = loop.numbers(seed, "views", 0)
    plain = [images, images[:, :, ::-1]][: settings.views]
    count = settings.views - len(plain)
    varied = [vq.vary(images, settings.shift, numbers) for _ in range(count)]
    return np.stack([*plain, *varied], axis=1)


def make_tokens(model, chosen: dataset.Pictures, folder: Path, settings: EmojiARSettings):
    """int32 [N, views, h, w]: the pictures' tokens, kept in tokens.npz for the same VQ-VAE."""
    path = folder / "tokens.npz"
    trained = loop.load_checkpoint(folder / f"{vq.STAGE}.pt")["step"]
    made_of = [trained, settings.gpt.views, settings.gpt.shift, settings.seed, len(chosen)]
    if path.exists():
        with np.load(path, allow_pickle=False) as kept:
            if kept["made_of"].tolist() == made_of:
                return kept["tokens"]
    many = views(chosen.images, settings.gpt, settings.seed)
    side = settings.vq.side
    tokens = vq.encode(model, many.reshape(-1, *many.shape[2:])).numpy().astype(np.int32)
    tokens = tokens.reshape(len(chosen), -1, side, side)
    if parallel.first():
        partial = path.with_name("tokens.partial.npz")
        np.savez_compressed(partial, tokens=tokens, made_of=np.array(made_of))
        os.replace(partial, path)
    return tokens


def prepare(folder: Path, settings: EmojiARSettings, chosen, model, tokens, device: str):
    """The transformer's run and batches; its vocabulary is the tokenizer's."""
    shape = replace(settings.gpt, vocabulary=len(tokens))
    run = gpt.start(folder / "gpt.pt", shape, settings.seed, device)
    codes = make_tokens(model, chosen, folder, settings)
    texts = gpt.text_cache(tokens, shape.length)
    return run, gpt.Batches(chosen, codes, texts, shape, settings.seed, device)


def _settings(settings, labels, seed, batch, rate, vq_steps) -> EmojiARSettings:
    settings = settings or EmojiARSettings()
    for name, value in (("batch", batch), ("rate", rate), ("vq_steps", vq_steps)):
        if value is not None and value <= 0:
            raise RequestError(f"{name}: expected a positive number, given {value}")
    if labels is not None:
        settings = replace(settings, labels=tuple(labels))
    if seed is not None:
        settings = replace(settings, seed=seed)
    shape, coder = settings.gpt, settings.vq
    shape = replace(shape, batch=batch or shape.batch, rate=rate or shape.rate)
    return replace(settings, gpt=shape, vq=replace(coder, steps=vq_steps or coder.steps))


def _sampler(folder: Path, model, minutes: float):
    """A grid of samples from the averaged weights every so many minutes."""
    from . import samples_ar

    last = [time.monotonic()]

    def every_step(run: course.Run) -> None:
        if parallel.first() and minutes > 0 and time.monotonic() - last[0] > 60 * minutes:
            path = folder / f"samples-{run.step:06d}.png"
            samples_ar.draw_grid(path, run, model, folder / "tokenizer")
            last[0] = time.monotonic()

    return every_step
