"""`pyengine train emoji`: trains a Stable Diffusion of 64x64 pictures.

Stages, each resumed where it stopped: autoencoder, tokenizer, latents, then
text encoder and noise predictor together.  The run's folder holds
autoencoder.pt, decoder.pt, tokenizer/, denoiser.pt, cooled.pt, log.jsonl and
grids of samples; :mod:`.export` makes the model folder of it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import RequestError
from . import autoencoder, course, dataset, denoiser, loop, recipe, samples, tokenizer
from .concepts import CONCEPTS
from .concepts import labels as labels_of

STYLES = ("fluent-3d",)


@dataclass(frozen=True)
class EmojiSettings:
    """All settings of a run.

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
    data: recipe.Data = None,
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
    labels, styles: those to train on; default the list in concepts.py and STYLES.
    init_from: an exported model folder to begin from where `out` has no checkpoint.
    settings: shapes and every other number; the arguments above win over it.
    """
    settings = _settings(settings, labels, styles, seed, batch, rate, autoencoder_steps)
    opened = recipe.open_run(RECIPE, out, data, threads, settings)
    folder, before = opened.folder, recipe.keep_settings(opened)
    begin_from = Path(init_from) if init_from is not None else None
    if begin_from is not None:
        adopt(begin_from, folder, settings)
    model = autoencoder.train(
        opened.everything,
        opened.rows,
        folder,
        settings.autoencoder,
        seed=settings.seed,
        device=device,
        log_every=log_every,
        echo=echo,
    )
    tokens = recipe.make_tokenizer(opened)
    run, batches = prepare(folder, settings, opened.chosen, model, tokens, device, begin_from)
    recipe.train(
        opened,
        run,
        batches,
        before,
        steps,
        seconds=None if minutes is None else 60 * minutes,
        log_every=log_every,
        echo=echo,
        draw=lambda path, run: draw_grid(path, run, model, tokens),
        sample_minutes=sample_minutes,
    )
    return folder


def sharpen(
    *,
    data: recipe.Data = None,
    out: str | os.PathLike[str] = "emoji-run",
    steps: int = 500,
    rate: float = 1e-3,
    device: str = "cpu",
    threads: int | None = None,
    log_every: int = 50,
    settings: EmojiSettings | None = None,
    echo: Callable[[str], None] = print,
) -> Path:
    """Train the decoder further, half on the run's own pictures; the encoder stays as it is."""
    opened = recipe.open_run(RECIPE, out, data, threads, settings)
    folder, coder = opened.folder, opened.settings.autoencoder
    autoencoder.train(
        opened.everything,
        opened.rows,
        folder,
        replace(coder, steps=steps, rate=rate, cooldown=steps // 2),
        seed=opened.settings.seed,
        device=device,
        only_decoder=True,
        log_every=log_every,
        echo=echo,
    )
    return folder / "decoder.pt"


def adopt(model: Path, folder: Path, settings: EmojiSettings) -> None:
    """Copy an exported model's autoencoder and tokenizer into a run, where it has none."""
    import torch
    from diffusers import AutoencoderKL

    if not (model / "model_index.json").is_file():
        raise RequestError(f"init_from: expected a model folder, given {str(model)!r}")
    if not (folder / "autoencoder.pt").exists():
        exported = AutoencoderKL.from_pretrained(model / "vae").float()  # type: ignore[no-untyped-call]  # no types in diffusers
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


def make_latents(model: Any, chosen: dataset.Pictures, device: str) -> Any:
    """Scaled latents of the chosen pictures; sets the autoencoder's scaling factor from them."""
    latents = autoencoder.encode(model, chosen.images)
    return (latents * autoencoder.set_scale(model, latents)).to(device)


def prepare_scale(model: Any, data: recipe.Data, settings: EmojiSettings) -> None:
    """Set the autoencoder's scaling factor from the pictures of the run."""
    everything, rows = recipe.load_pictures(data, settings, settings.autoencoder.size)
    make_latents(model, everything.rows(rows.tolist()), "cpu")


def prepare(
    folder: Path,
    settings: EmojiSettings,
    chosen: dataset.Pictures,
    model: Any,
    tokens: Any,
    device: str,
    init_from: Path | None = None,
) -> tuple[course.Run, denoiser.Batches]:
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


def _settings(
    settings: EmojiSettings | None,
    labels: Sequence[str] | None,
    styles: Sequence[str],
    seed: int,
    batch: int | None,
    rate: float | None,
    autoencoder_steps: int | None,
) -> EmojiSettings:
    settings = settings or EmojiSettings(styles=tuple(styles), seed=seed)
    if labels is not None:
        settings = replace(settings, labels=tuple(labels))
    recipe.check_positive(batch=batch, rate=rate, autoencoder_steps=autoencoder_steps)
    course = settings.denoiser
    course = replace(course, batch=batch or course.batch, rate=rate or course.rate)
    coder = settings.autoencoder
    coder = replace(coder, steps=autoencoder_steps or coder.steps)
    return replace(settings, denoiser=course, autoencoder=coder)


def draw_grid(
    path: Path, run: course.Run, model: Any, tokens: Any, prompts: Sequence[str] = samples.PROMPTS
) -> None:
    """Write a sheet of the prompts, generated with the averaged weights."""
    networks = run.networks
    with run.averaged():
        networks.unet.eval(), networks.text_encoder.eval()
        pipe = samples.pipeline(networks, model, tokens)
        samples.draw(path, samples.generator(pipe), prompts)
        networks.unet.train(), networks.text_encoder.train()


def _load(opened: recipe.Opened, device: str) -> tuple[course.Run, denoiser.Batches]:
    folder, settings = opened.folder, opened.settings
    model = autoencoder.load(folder, settings.autoencoder, device)
    tokens = tokenizer.load(folder / "tokenizer")
    return prepare(folder, settings, opened.chosen, model, tokens, device)


RECIPE = recipe.Recipe(
    settings=EmojiSettings,
    parts={"autoencoder": autoencoder.AutoencoderSettings, "denoiser": denoiser.DenoiserSettings},
    coder="autoencoder",
    generator="denoiser",
    out="emoji-run",
    cooldown="cooldown",
    cool_steps=1000,
    load=_load,
)
load_settings = RECIPE.load_settings
cool = partial(recipe.cool, RECIPE)
