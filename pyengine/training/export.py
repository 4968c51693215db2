"""From a run's folder to the model folder: plain diffusers layout, fp16, with card and notices."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import autoencoder, course, denoiser, loop, model_folder, samples, tokenizer
from .card import card
from .emoji import RECIPE, EmojiSettings, prepare_scale
from .model_folder import choose_weights, replacing, tidy_config, write_json
from .recipe import Data

# What pyengine uses where a call says nothing; diffusers does not read it.
DEFAULTS = {
    "num_inference_steps": samples.STEPS,
    "guidance_scale": samples.GUIDANCE,
    "fast_num_inference_steps": 6,
    "fast_scheduler": "dpmpp_2m",
}


def export(
    *,
    run: str | os.PathLike[str] = "emoji-run",
    to: str | os.PathLike[str] = "emoji",
    data: Data = None,
    weights: str = "auto",
    evaluation: model_folder.Evaluation = None,
    draw_samples: bool = True,
    settings: EmojiSettings | None = None,
) -> Path:
    """Write the model folder `to`, replacing what is there in one rename; returns it.

    run: the training folder; weights: "average" of denoiser.pt, "cooled" of
    cooled.pt, or "auto": cooled where it is the newer one.
    evaluation: a JSON file written by :func:`.evaluate.write`, for the card.
    """
    folder, target = Path(run), Path(to)
    settings = settings or RECIPE.load_settings(folder)
    checkpoint = choose_weights(folder, weights, RECIPE.checkpoint)
    tokens = tokenizer.load(folder / "tokenizer")
    shape = replace(settings.denoiser, vocabulary=len(tokens))
    trained = denoiser.start(checkpoint, shape, settings.seed, "cpu")
    trained.networks.load_average(trained.average.values)
    model = autoencoder.load(folder, settings.autoencoder)
    prepare_scale(model, data, settings)
    with replacing(target) as partial:
        write_parts(partial, trained.networks, model, tokens, folder / "tokenizer")
        write_words(partial, folder, trained, settings, evaluation)
        if draw_samples:
            draw(partial)
    return target


def write_parts(
    folder: Path, networks: Any, model: Any, tokens: Any, tokenizer_files: Path
) -> None:
    """The diffusers folder itself; the tokenizer as vocab.json and merges.txt."""
    import torch

    pipe = samples.pipeline(networks, model, tokens)
    pipe.to(dtype=torch.float16)
    pipe.save_pretrained(folder, safe_serialization=True)
    shutil.rmtree(folder / "tokenizer")
    shutil.copytree(tokenizer_files, folder / "tokenizer")
    for file in folder.rglob("*.*"):
        file.chmod(0o644)
        if file.name.endswith("config.json"):
            tidy_config(file)


def write_words(
    folder: Path,
    run: Path,
    trained: course.Run,
    settings: EmojiSettings,
    evaluation: model_folder.Evaluation,
) -> None:
    """See model_folder.write_words; also pyengine's defaults."""
    write_json(folder / "pyengine.json", DEFAULTS)
    stages = ("autoencoder", "decoder")
    seconds = sum(r["seconds"] for r in model_folder.log_records(run) if r["stage"] in stages)
    networks = trained.networks
    model_folder.write_words(
        folder,
        run,
        RECIPE,
        trained,
        settings,
        evaluation,
        curves=("loss", "v_error"),
        card=card,
        favoured=favoured(settings),
        autoencoder_hours=model_folder.hours(seconds),
        parameters={
            "unet": model_folder.count(networks.unet),
            "text_encoder": model_folder.count(networks.text_encoder),
        },
        denoiser=networks.settings.describe(),
        autoencoder=settings.autoencoder.describe() | {"steps": coder_steps(run)},
    )


def favoured(settings: EmojiSettings) -> str:
    """The labels that were seen more often, in words."""
    labels = [label for label in settings.favoured if label in settings.labels]
    if not labels or settings.favour == 1:
        return "none"
    return f"{settings.favour} times: {', '.join(labels)}"


def coder_steps(run: Path) -> int:
    """How many steps the autoencoder was trained in fact, its decoder's own ones not counted."""
    return int(loop.load_checkpoint(run / "autoencoder.pt")["step"])


def draw(folder: Path) -> None:
    """samples.png, drawn by diffusers from the written fp16 weights."""
    from diffusers import StableDiffusionPipeline

    pipe: Any = StableDiffusionPipeline.from_pretrained(folder)  # type: ignore[no-untyped-call]  # no types in diffusers
    pipe.set_progress_bar_config(disable=True)
    samples.draw(folder / "samples.png", samples.generator(pipe))
