"""Measures of all pictures of an evaluation together: distances between sets, and CLIP's score."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RequestError

#: Whose features they are over unless told: the shipped CLIP's.
FEATURES = "emoji-clip"
#: Pictures in a subset of the kernel distance, or as many as there are.
SUBSET = 100


def load_features(place: str | os.PathLike[str] = FEATURES) -> Any:
    """A feature network for pyengine.metrics: the shipped CLIP by name, a folder of a whole CLIP,
    or a .safetensors file of InceptionV3 in torch-fidelity's layout.
    """
    if Path(place).suffix == ".safetensors":
        from ..metrics import InceptionV3

        return InceptionV3(place)
    from ..pipelines.clip_features import ClipFeatures

    return ClipFeatures(place)


def sets_over(features: Any) -> Callable[[np.ndarray, np.ndarray, Sequence[str]], dict[str, Any]]:
    """`sets` of :func:`.evaluate.evaluate` over a feature network.

    The measures: ``features`` (its name), ``frechet_distance``, ``kernel_distance`` and its
    ``kernel_deviation`` over 100 subsets of up to 100 pictures, ``precision`` and ``recall`` (k =
    3), ``density`` and ``coverage`` (k = 5), and of a CLIP ``clip_score``. A few hundred pictures
    are few: figures compare with those of as many only.
    """
    import torch

    from ..metrics import (
        CLIPScore,
        DensityCoverage,
        FrechetDistance,
        KernelDistance,
        PrecisionRecall,
    )

    def rows_of(images: np.ndarray) -> Any:
        return features(torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2))

    def measure(real: np.ndarray, drawn: np.ndarray, prompts: Sequence[str]) -> dict[str, Any]:
        known, made = rows_of(real), rows_of(drawn)
        fewest = min(len(known), len(made))
        distance, covered = FrechetDistance(features), PrecisionRecall(features)
        kernel = KernelDistance(features, subset_size=min(SUBSET, fewest), seed=0)
        dense = DensityCoverage(features, k=min(5, fewest - 1))
        for metric in (distance, covered, kernel, dense):
            metric.update_features(known, True)
            metric.update_features(made, False)
        found, densities = covered.compute(), dense.compute()
        mean, deviation = kernel.compute()
        result = {
            "features": features.name,
            "frechet_distance": round(float(distance.compute()), 4),
            "kernel_distance": round(float(mean), 6),
            "kernel_deviation": round(float(deviation), 6),
            "precision": round(float(found.precision), 4),
            "recall": round(float(found.recall), 4),
            "density": round(float(densities.density), 4),
            "coverage": round(float(densities.coverage), 4),
        }
        if hasattr(features, "texts"):
            score = CLIPScore(features)
            score.update_embeddings(made, features.texts(list(prompts)))
            result["clip_score"] = round(float(score.compute()), 3)
        return result

    return measure


def merge(file: str | os.PathLike[str], model: str, result: dict[str, Any]) -> None:
    """Puts a model's evaluation into a JSON file of several, {model: evaluation}, in order."""
    path = Path(file)
    try:
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except ValueError as error:
        raise RequestError(f"save: expected a JSON file of evaluations, given {error}") from error
    if not isinstance(known, dict):
        raise RequestError(f"save: expected an object of evaluations by model, given {path.name}")
    known[model] = result
    text = json.dumps(dict(sorted(known.items())), indent=2, ensure_ascii=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    os.replace(partial, path)
