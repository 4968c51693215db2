"""`pyengine train emoji`: from pictures to a model folder that diffusers loads.

Stages, each resumed where it stopped: autoencoder, tokenizer, latents, then
text encoder and noise predictor together.  The run's folder holds
autoencoder.pt, decoder.pt, tokenizer/, denoiser.pt, cooled.pt, log.jsonl and
grids of samples; :mod:`.export` makes the model folder of it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..errors import RequestError
from . import autoencoder, captions, course, dataset, denoiser, loop, recipe, samples, tokenizer
from .concepts import CONCEPTS
from .concepts import labels as labels_of

STYLES = ("fluent-3d",)


@dataclass(frozen=True)
class EmojiSettings:
    """Everything that a run is made of.

    favoured: labels that the noise predictor sees `favour` times as often as the others.
    """

    autoencoder: autoencoder.AutoencoderSettings = field(
        default_factory=autoencoder.AutoencoderSettings
    )
    denoiser: denoiser.DenoiserSettings = field(default_factory=denoiser.DenoiserSettings)
    labels: tuple[str, ...] = CONCEPTS
    styles: tuple[str, ...] = STYLES
    favoured: tuple[str, ...] = tuple(labels_of("hearts"))
    favour: int = 3
    seed: int = 1


def train(
    *,
    data: str | os.PathLike[str] | dataset.Pictures | None = None,
    out: str | os.PathLike[str] = "emoji-run",
    steps: int = 30000,
    minutes: float | None = None,
    device: str = "cpu",
    threads: int | None = None,
    labels: Sequence[str] | None = None,
    styles: Sequence[str] = STYLES,
    seed: int = 1,
    batch: int | None = None,
    rate: float | None = None,
    autoencoder_steps: int | None = None,
    init_from: str | os.PathLike[str] | None = None,
    sample_minutes: float = 15.0,
    log_every: int = 50,
    settings: EmojiSettings | None = None,
    echo: Callable[[str], None] = print,
) -> Path:
    """Train in the folder `out`, or go on where it stopped; returns the folder.

    data: folder with train.npz, an .npz file, or pictures; default $PYENGINE_DATA.
    steps: of the noise predictor, counted from its beginning; minutes: stop earlier.
    labels, styles: what to draw; default the list in concepts.py and two styles.
    init_from: an exported model folder to begin from where `out` has no checkpoint.
    settings: shapes and every other number; the arguments above win over it.
    """
    import torch

    if threads:
        torch.set_num_threads(threads)
    folder = Path(out)
    settings = _settings(settings, labels, styles, seed, batch, rate, autoencoder_steps)
    everything, chosen = load_pictures(data, settings)
    before = load_settings(folder) if (folder / "settings.json").exists() else None
    recipe.save_settings(folder, settings)
    begin_from = Path(init_from) if init_from is not None else None
    if begin_from is not None:
        adopt(begin_from, folder, settings)
    model = autoencoder.train(
        everything,
        recipe.choose_rows(everything, settings),
        folder,
        settings.autoencoder,
        seed=settings.seed,
        device=device,
        log_every=log_every,
        echo=echo,
    )
    tokens = make_tokenizer(everything, folder, settings)
    run, batches = prepare(folder, settings, chosen, model, tokens, device, begin_from)
    if before is not None and run.step:
        recipe.note_changes(folder, run.step, before, settings, ("denoiser",))
    course.train(
        run,
        batches,
        steps,
        seconds=None if minutes is None else 60 * minutes,
        checkpoint=folder / "denoiser.pt",
        log=loop.Log(folder / "log.jsonl", "denoiser", log_every, echo),
        every_step=_sampler(folder, model, tokens, sample_minutes),
    )
    return folder


def cool(
    *,
    data: str | os.PathLike[str] | dataset.Pictures | None = None,
    out: str | os.PathLike[str] = "emoji-run",
    steps: int = 1000,
    device: str = "cpu",
    threads: int | None = None,
    log_every: int = 50,
    settings: EmojiSettings | None = None,
    echo: Callable[[str], None] = print,
) -> Path:
    """Branch off `steps` steps with the rate descending to zero, into cooled.pt.

    The run itself stays as it is, to go on from later.
    """
    import torch

    if threads:
        torch.set_num_threads(threads)
    folder = Path(out)
    settings = settings or load_settings(folder)
    if not (folder / "denoiser.pt").exists():
        raise RequestError(f"out: expected a folder with denoiser.pt, given {str(folder)!r}")
    _, chosen = load_pictures(data, settings)
    model = autoencoder.load(folder, settings.autoencoder, device)
    run, batches = prepare(
        folder, settings, chosen, model, tokenizer.load(folder / "tokenizer"), device
    )
    log = loop.Log(folder / "log.jsonl", "cooldown", log_every, echo)
    return course.cool(run, batches, steps, folder, log)


def sharpen(
    *,
    data: str | os.PathLike[str] | dataset.Pictures | None = None,
    out: str | os.PathLike[str] = "emoji-run",
    steps: int = 500,
    rate: float = 1e-3,
    device: str = "cpu",
    threads: int | None = None,
    log_every: int = 50,
    settings: EmojiSettings | None = None,
    echo: Callable[[str], None] = print,
) -> Path:
    """Train the decoder further, mostly on what the model draws; the latents keep their meaning."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    folder = Path(out)
    settings = settings or load_settings(folder)
    everything, _ = load_pictures(data, settings)
    course = replace(settings.autoencoder, steps=steps, rate=rate, cooldown=steps // 2)
    rows = recipe.choose_rows(everything, settings)
    autoencoder.train(
        everything,
        rows,
        folder,
        course,
        seed=settings.seed,
        device=device,
        only_decoder=True,
        log_every=log_every,
        echo=echo,
    )
    return folder / "decoder.pt"


def load_settings(folder: Path) -> EmojiSettings:
    """The settings that a run was last trained with."""
    parts = {"autoencoder": autoencoder.AutoencoderSettings, "denoiser": denoiser.DenoiserSettings}
    return recipe.load_settings(folder, EmojiSettings, parts)


def load_pictures(data, settings: EmojiSettings) -> tuple[dataset.Pictures, dataset.Pictures]:
    """All pictures, and those of the run's labels and styles."""
    everything, rows = recipe.load_pictures(data, settings, settings.autoencoder.size)
    return everything, everything.rows(rows.tolist())


def adopt(model: Path, folder: Path, settings: EmojiSettings) -> None:
    """Put an exported model's autoencoder and tokenizer where a run expects its own."""
    import torch
    from diffusers import AutoencoderKL

    if not (model / "model_index.json").is_file():
        raise RequestError(f"init_from: expected a model folder, given {str(model)!r}")
    if not (folder / "autoencoder.pt").exists():
        exported = AutoencoderKL.from_pretrained(model / "vae").float()
        own = autoencoder.build(settings.autoencoder)
        own.load_state_dict(exported.state_dict())
        weights = [parameter.detach() for parameter in own.parameters()]
        optimizer = torch.optim.AdamW(own.parameters())
        state = {"step": settings.autoencoder.steps, "settings": settings.autoencoder.shape()}
        state |= {
            "model": own.state_dict(),
            "optimizer": optimizer.state_dict(),
            "average": weights,
        }
        loop.save_checkpoint(folder / "autoencoder.pt", state)
    if not (folder / "tokenizer").exists():
        shutil.copytree(model / "tokenizer", folder / "tokenizer")


def make_tokenizer(everything: dataset.Pictures, folder: Path, settings: EmojiSettings):
    """The run's tokenizer: learnt once, then read."""
    place, shape = folder / "tokenizer", settings.denoiser
    if not (place / "vocab.json").exists():
        counts = captions.word_counts(everything, set(settings.labels))
        tokenizer.write(place, counts, shape.vocabulary, shape.length)
    return tokenizer.load(place)


def make_latents(model, chosen: dataset.Pictures, device: str):
    """Scaled latents of the chosen pictures; sets the autoencoder's scaling factor from them."""
    latents = autoencoder.encode(model, chosen.images)
    return (latents * autoencoder.set_scale(model, latents)).to(device)


def prepare_scale(model, data, settings: EmojiSettings) -> None:
    """Give the autoencoder its scaling factor from the pictures of the run."""
    _, chosen = load_pictures(data, settings)
    make_latents(model, chosen, "cpu")


def prepare(
    folder: Path,
    settings: EmojiSettings,
    chosen,
    model,
    tokens,
    device: str,
    init_from: Path | None = None,
):
    """The denoiser's run and batches; its vocabulary is the tokenizer's."""
    shape = replace(settings.denoiser, vocabulary=len(tokens))
    run = denoiser.start(folder / "denoiser.pt", shape, settings.seed, device, init_from)
    latents = make_latents(model, chosen, device)
    rows = [
        row
        for row, label in enumerate(chosen.labels)
        for _ in range(settings.favour if label in settings.favoured else 1)
    ]
    seen, latents = chosen.rows(rows), latents[rows]
    return run, denoiser.Batches(
        seen, latents, denoiser.token_cache(tokens), shape, settings.seed, device
    )


def _settings(settings, labels, styles, seed, batch, rate, autoencoder_steps) -> EmojiSettings:
    settings = settings or EmojiSettings(styles=tuple(styles), seed=seed)
    if labels is not None:
        settings = replace(settings, labels=tuple(labels))
    for name, value in (("batch", batch), ("rate", rate), ("autoencoder_steps", autoencoder_steps)):
        if value is not None and value <= 0:
            raise RequestError(f"{name}: expected a positive number, given {value}")
    course = settings.denoiser
    course = replace(course, batch=batch or course.batch, rate=rate or course.rate)
    coder = settings.autoencoder
    coder = replace(coder, steps=autoencoder_steps or coder.steps)
    return replace(settings, denoiser=course, autoencoder=coder)


def _sampler(folder: Path, model, tokens, minutes: float):
    """A grid of samples from the averaged weights every so many minutes."""
    last = [time.monotonic()]

    def every_step(run: course.Run) -> None:
        if minutes > 0 and time.monotonic() - last[0] > 60 * minutes:
            draw_grid(folder / f"samples-{run.step:06d}.png", run, model, tokens)
            last[0] = time.monotonic()

    return every_step


def draw_grid(
    path: Path, run: course.Run, model, tokens, prompts: Sequence[str] = samples.PROMPTS
) -> None:
    """Draw the prompts with the averaged weights, then put the weights in training back."""
    networks = run.networks
    kept = [parameter.detach().clone() for parameter in networks.parameters]
    networks.load_average(run.average.values)
    networks.unet.eval(), networks.text_encoder.eval()
    pipe = samples.pipeline(networks, model, tokens)
    generate = samples.generator(pipe)
    images = generate(prompts, range(len(prompts)))
    networks.load_average(kept)
    networks.unet.train(), networks.text_encoder.train()
    samples.save_png(path, samples.grid(images, columns=8))
