"""`pyengine eval` of the models that guide others: how well they tell training pictures apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..pipelines.shipped_guides import guide_place
from ..weights import load_json
from . import captions, dataset, evaluate, loop

#: Timesteps at which a classifier is measured, and how often noise is drawn at each.
TIMESTEPS = (0, *range(99, 1000, 100))
DRAWS = 4

Measure = Callable[[Path, dataset.Pictures, Sequence[str], str, int, int], dict[str, Any]]


def measure_of(model: str) -> Measure | None:
    """What measures a guide that ships, by name, or a folder of such a model; None for one that
    draws.
    """
    folder = folder_of(model)
    if (folder / "model_index.json").exists() or not (folder / "config.json").is_file():
        return None
    config = load_json(folder / "config.json")
    if config.get("model_type") == "clip":
        return retrieval
    return accuracy if "channel_mult" in config else None


def folder_of(model: str) -> Path:
    """Of a guide that ships, unless there is a folder of its name; else the place itself."""
    return Path(guide_place(model))


def asked_for(
    pictures: dataset.Pictures, concepts: Sequence[str], style: str, count: int, seed: int
) -> dataset.Pictures:
    """The style's pictures of `count` of the concepts. Raises DataError where there are none."""
    known = pictures.select(concepts, {style})
    if not len(known):
        raise dataset.DataError(f"style: expected pictures of the labels, given {style!r}")
    return known.select(evaluate.choose(list(dict.fromkeys(known.labels)), count, seed))


def accuracy(
    folder: Path,
    pictures: dataset.Pictures,
    concepts: Sequence[str],
    style: str,
    count: int,
    seed: int,
) -> dict[str, Any]:
    """How often a classifier tells the label of noised latents of a picture, by timestep.

    concepts: its classes, in order. Of each timestep in ``levels``: the share of variance that is
    ``noise``, ``top1`` and ``top5``, and ``best``: top 1 of the rule that nothing beats where these
    pictures are equally likely and all there are, the one with the nearest latents.
    """
    import torch

    from ..models import EncoderUNetModel
    from .classifier import emoji_alphas
    from .prior import encoded

    model = EncoderUNetModel.from_pretrained(folder)
    known, asked = (
        pictures.select(concepts, {style}),
        asked_for(pictures, concepts, style, count, seed),
    )
    clean, latents, alphas = encoded(known), encoded(asked), emoji_alphas()
    classes = torch.tensor([list(concepts).index(label) for label in asked.labels])
    own = torch.tensor([known.labels.index(label) for label in asked.labels])
    levels = []
    for timestep in TIMESTEPS:
        alpha, numbers = alphas[timestep], loop.torch_numbers(seed, "classifier", timestep)
        found = torch.zeros(3, dtype=torch.float64)
        for _ in range(DRAWS):
            noise = torch.randn(latents.shape, generator=numbers)
            noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
            likeliest = model(noisy, timestep).topk(min(5, len(concepts)), dim=1).indices
            right = likeliest == classes[:, None]
            nearest = torch.cdist(noisy.flatten(1), alpha.sqrt() * clean.flatten(1)).argmin(dim=1)
            rows = right[:, 0], right.any(dim=1), nearest == own
            found += torch.stack([row.double().mean() for row in rows]) / DRAWS
        shares = dict(zip(("top1", "top5", "best"), found.tolist(), strict=True))
        levels.append(
            {"timestep": timestep, "noise": round(float(1 - alpha), 4)}
            | {name: round(share, 4) for name, share in shares.items()}
        )
    return {
        "asked": len(asked),
        "seed": seed,
        "style": style,
        "classes": len(concepts),
        "draws": DRAWS,
        "levels": levels,
    }


def retrieval(
    folder: Path,
    pictures: dataset.Pictures,
    concepts: Sequence[str],
    style: str,
    count: int,
    seed: int,
) -> dict[str, Any]:
    """Whether a picture's own prompt "a LABEL" is the nearest of all concepts' by a CLIP, or among
    the five nearest.
    """
    import torch

    from ..pipelines.clip_features import ClipFeatures

    asked = asked_for(pictures, concepts, style, count, seed)
    features = ClipFeatures(folder)
    images = torch.from_numpy(asked.images).permute(0, 3, 1, 2)
    seen = torch.nn.functional.normalize(features(images), dim=1)
    texts = features.texts([captions.with_article(label) for label in concepts])
    table = seen @ torch.nn.functional.normalize(texts, dim=1).T
    own = torch.tensor([list(concepts).index(label) for label in asked.labels])
    right = table.topk(min(5, len(concepts)), dim=1).indices == own[:, None]
    return {
        "asked": len(asked),
        "seed": seed,
        "style": style,
        "prompts": len(concepts),
        "top1": round(float(right[:, 0].double().mean()), 4),
        "top5": round(float(right.any(dim=1).double().mean()), 4),
    }
