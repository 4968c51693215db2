"""From a run's folder to the model folder: plain diffusers layout, fp16, with card and notices."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from ..errors import RequestError
from . import autoencoder, denoiser, loop, samples, tokenizer
from .card import NOTICE, card
from .emoji import EmojiSettings, load_settings, prepare_scale
from .recipe import load_history

# What pyengine uses where a call says nothing; diffusers does not read it.
DEFAULTS = {"num_inference_steps": samples.STEPS, "guidance_scale": samples.GUIDANCE}


def export(
    *,
    run: str | os.PathLike[str] = "emoji-run",
    to: str | os.PathLike[str] = "emoji",
    data=None,
    weights: str = "auto",
    evaluation: str | os.PathLike[str] | None = None,
    draw_samples: bool = True,
    settings: EmojiSettings | None = None,
) -> Path:
    """Write the model folder `to`, replacing what is there in one rename; returns it.

    run: the training folder; weights: "average" of denoiser.pt, "cooled" of
    cooled.pt, or "auto": cooled where it is the newer one.
    evaluation: a JSON file written by :func:`.evaluate.write`, for the card.
    """
    folder, target = Path(run), Path(to)
    settings = settings or load_settings(folder)
    checkpoint = choose_weights(folder, weights, "denoiser.pt")
    tokens = tokenizer.load(folder / "tokenizer")
    shape = replace(settings.denoiser, vocabulary=len(tokens))
    trained = denoiser.start(checkpoint, shape, settings.seed, "cpu")
    trained.networks.load_average(trained.average.values)
    model = autoencoder.load(folder, settings.autoencoder)
    prepare_scale(model, data, settings)
    partial = new_folder(target)
    write_parts(partial, trained.networks, model, tokens, folder / "tokenizer")
    write_words(partial, folder, trained, settings, evaluation)
    if draw_samples:
        draw(partial)
    replace_folder(partial, target)
    return target


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


def write_parts(folder: Path, networks, model, tokens, tokenizer_files: Path) -> None:
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


def write_words(
    folder: Path, run: Path, trained: denoiser.Run, settings: EmojiSettings, evaluation
) -> None:
    """concepts.txt, NOTICE, curves.png, training.json, pyengine's defaults and the card."""
    log = run / "log.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    (folder / "concepts.txt").write_text("\n".join(settings.labels) + "\n", encoding="utf-8")
    (folder / "pyengine.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n", encoding="utf-8")
    (folder / "NOTICE").write_text(NOTICE, encoding="utf-8")
    stages = [r for r in records if r["stage"] in ("denoiser", "cooldown")]
    samples.save_png(folder / "curves.png", samples.curve(stages, ("loss", "v_error")))
    result = json.loads(Path(evaluation).read_text()) if evaluation is not None else None
    coder = [r for r in records if r["stage"] in ("autoencoder", "decoder")]
    facts = {
        "seed": settings.seed,
        "styles": list(settings.styles),
        "labels": len(settings.labels),
        "favoured": favoured(settings),
        "steps": trained.step,
        "cooled": trained.cooled,
        "samples": trained.step * trained.networks.settings.batch,
        "hours": round(trained.seconds / 3600, 2),
        "autoencoder_hours": round(sum(r["seconds"] for r in coder) / 3600, 2),
        "parameters": {
            "unet": _count(trained.networks.unet),
            "text_encoder": _count(trained.networks.text_encoder),
        },
        "denoiser": trained.networks.settings.describe(),
        "autoencoder": autoencoder.describe(settings.autoencoder) | {"steps": coder_steps(run)},
        "history": load_history(run),
        "evaluation": result,
    }
    (folder / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(facts), encoding="utf-8")


def favoured(settings: EmojiSettings) -> str:
    """The labels that were seen more often, in words."""
    labels = [label for label in settings.favoured if label in settings.labels]
    if not labels or settings.favour == 1:
        return "none"
    return f"{settings.favour} times: {', '.join(labels)}"


def coder_steps(run: Path) -> int:
    """How many steps the autoencoder was trained in fact, its decoder's own ones not counted."""
    return loop.load_checkpoint(run / "autoencoder.pt")["step"]


def _count(module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def draw(folder: Path) -> None:
    """samples.png, drawn by diffusers from the written fp16 weights."""
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    generate = samples.generator(pipe)
    images = generate(samples.PROMPTS, range(len(samples.PROMPTS)))
    samples.save_png(folder / "samples.png", samples.grid(images, columns=8))


def new_folder(target: Path) -> Path:
    """An empty folder beside `target`, which replace_folder puts in its place."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def replace_folder(new: Path, target: Path) -> None:
    """Put `new` where `target` is; the old folder is gone only after the new one is in place."""
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.replace(target, old)
    os.replace(new, target)
    shutil.rmtree(old, ignore_errors=True)
