"""`pyengine eval NAME`: how often a generated picture is recognised as that of its label.

Each picture is compared with the training pictures in a plain feature space: 16x16 RGB averages,
root-mean-square distance with white at 1.  Two figures bound the result: real pictures through the
autoencoder (ceiling), and generated pictures with the labels shuffled (floor).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import captions, dataset, samples

FEATURE_SIDE = 16
COPY_DISTANCE = 0.04


def features(images: np.ndarray) -> np.ndarray:
    """uint8 [N, H, W, 3] -> float64 [N, 16 * 16 * 3] box averages in [0, 1]."""
    dataset.check_images(images)
    count, height, width, _ = images.shape
    if height % FEATURE_SIDE or width % FEATURE_SIDE:
        raise dataset.DataError(
            f"images: expected sides that {FEATURE_SIDE} divides, given {height}x{width}"
        )
    box = (height // FEATURE_SIDE, width // FEATURE_SIDE)
    blocks = images.reshape(count, FEATURE_SIDE, box[0], FEATURE_SIDE, box[1], 3)
    means: np.ndarray = blocks.mean(axis=(2, 4), dtype=np.float64) / 255
    return means.reshape(count, -1)


def distances(queries: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Root-mean-square distances [queries, known] of features."""
    squares = (queries**2).sum(1)[:, None] + (known**2).sum(1)[None] - 2.0 * queries @ known.T
    return np.asarray(np.sqrt(np.maximum(squares, 0) / queries.shape[1]))


def score(images: np.ndarray, labels: Sequence[str], known: dataset.Pictures) -> dict[str, float]:
    """How many have a picture of their label among the nearest 1 and 5, and how near it is."""
    table = distances(features(images), features(known.images))
    nearest = np.argsort(table, axis=1, kind="stable")[:, :5]
    hits = np.array(
        [
            [known.labels[j] == label for j in row]
            for row, label in zip(nearest, labels, strict=True)
        ]
    )
    closest = table.min(axis=1)
    return {
        "top1": round(float(hits[:, 0].mean()), 4),
        "top5": round(float(hits.any(axis=1).mean()), 4),
        "median_distance": round(float(np.median(closest)), 4),
        "copies": round(float((closest < COPY_DISTANCE).mean()), 4),
    }


def style_share(
    images: np.ndarray,
    labels: Sequence[str],
    known: dataset.Pictures,
    style: str,
    others: Sequence[str],
) -> dict[str, float]:
    """How many pictures are nearer to their label's picture of `style` than to those of `others`,
    and the median of the distances to the former. Labels without a picture of each are left out.
    """
    rows = {
        (s, label): i for i, (s, label) in enumerate(zip(known.styles, known.labels, strict=True))
    }
    asked, drawn, real = [], features(images), features(known.images)
    for place, label in enumerate(labels):
        found = [rows[s, label] for s in (style, *others) if (s, label) in rows]
        if len(found) == 1 + len(others):
            asked.append(distances(drawn[place : place + 1], real[found])[0])
    if not asked:
        raise dataset.DataError(f"style: expected pictures of the labels, given {style!r}")
    table = np.stack(asked)
    return {
        "counted": len(table),
        "share": round(float((table.argmin(axis=1) == 0).mean()), 4),
        "median_distance": round(float(np.median(table[:, 0])), 4),
    }


def choose(labels: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` different labels (or all there are), the same for the same seed."""
    order = np.random.default_rng([seed, 7]).permutation(len(labels))
    return [labels[i] for i in sorted(order[:count])]


def read_concepts(path: str | os.PathLike[str]) -> list[str]:
    """The labels of a concepts.txt, one a line."""
    file = Path(path)
    if not file.is_file():
        raise dataset.DataError(f"concepts: expected a file of labels, given {str(path)!r}")
    labels = [
        line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()
    ]
    if not labels:
        raise dataset.DataError(f"concepts: expected at least one label, given none in {file.name}")
    return labels


def evaluate(
    generate: samples.Generate,
    *,
    concepts: Sequence[str] | str | os.PathLike[str],
    data: str | os.PathLike[str] | dataset.Pictures | None = None,
    style: str = "fluent-3d",
    styles: Sequence[str] = ("fluent-3d",),
    count: int = 200,
    seed: int = 0,
    repeats: int = 1,
    autoencode: Callable[[np.ndarray], np.ndarray] | None = None,
    save_images: str | os.PathLike[str] | None = None,
    sets: Callable[[np.ndarray, np.ndarray, Sequence[str]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Ask for `count` labels of `concepts` in `style` and say how often they are recognised.

    generate: from prompts and seeds, one of each per picture, to uint8 [N, H, W, 3].
    concepts: labels, or a concepts.txt.
    data: the data set (folder, .npz or pictures); default $PYENGINE_DATA.
    styles: the styles trained on; the search is over pictures of the concepts in these.
    seed: of the choice of labels, and the first of the pictures' seeds. repeats: how often all are
    drawn, from other seeds, for the spread.
    autoencode: pictures through the model's autoencoder, for the ceiling.
    sets: measures of all that was drawn together: called with the real pictures of the labels that
    were asked for, uint8 [M, H, W, 3], what was drawn, uint8 [N, H, W, 3], and the prompts.
    save_images: a .png for one sheet of what was drawn, or an .npz with the prompts.

    Returns a table of plain values: ``model``, ``model_all_pictures`` (the search
    widened to every picture of the data), ``ceiling``, ``floor``, each with top1,
    top5, median_distance and copies (the share nearer than COPY_DISTANCE); ``sets``, what that
    function gives; with repeats, ``spread``: see :func:`spread`. All but the latter is of the first
    drawing.
    """
    if repeats < 1:
        raise dataset.DataError(f"repeats: expected 1 or more, given {repeats}")
    pictures = data if isinstance(data, dataset.Pictures) else dataset.load(data)
    labels = read_concepts(concepts) if isinstance(concepts, (str, os.PathLike)) else list(concepts)
    known = pictures.select(labels, {*styles, style})
    drawn = [label for label in labels if label in set(known.labels)]
    if count < 1 or not drawn:
        raise dataset.DataError(
            f"count: expected labels to draw, given count {count} of {len(drawn)} labels known"
        )
    asked = choose(drawn, count, seed)
    prompts = [captions.with_style(captions.with_article(label), style) for label in asked]
    real = known.select(asked, {style})
    found, images = [], np.empty(0)
    for turn in range(repeats):
        first = (seed + turn) * 100003
        drawing = np.asarray(generate(prompts, list(range(first, first + len(prompts)))))
        if len(drawing) != len(prompts):
            raise dataset.DataError(
                f"generate: expected {len(prompts)} pictures, given {len(drawing)}"
            )
        measured: dict[str, Any] = {"model": score(drawing, asked, known)}
        if sets is not None:
            measured["sets"] = sets(real.images, drawing, prompts)
        found.append(measured)
        images = images if turn else drawing
    if save_images is not None:
        save_drawn(Path(save_images), images, prompts)
    result = {
        "asked": len(asked),
        "seed": seed,
        "style": style,
        "searched": len(known),
        "model": found[0]["model"],
        "model_all_pictures": score(images, asked, pictures),
        "floor": score(images, np.roll(asked, max(1, len(asked) // 2)).tolist(), known),
    }
    if sets is not None:
        result["sets"] = found[0]["sets"]
    if repeats > 1:
        result["spread"] = spread(found)
    if autoencode is not None:
        result["ceiling"] = score(autoencode(real.images), real.labels, known)
    return result


def spread(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Over several drawings: ``drawings``, how many; of every number of ``model`` and ``sets`` the
    mean and the sample's standard deviation.
    """
    rows = [{**one["model"], **one.get("sets", {})} for one in found]
    result: dict[str, Any] = {"drawings": len(rows)}
    for name in (n for n, value in rows[0].items() if isinstance(value, float)):
        values = np.array([row[name] for row in rows])
        mean, deviation = float(values.mean()), float(values.std(ddof=1))
        result[name] = {"mean": round(mean, 4), "deviation": round(deviation, 4)}
    return result


def save_drawn(path: Path, images: np.ndarray, prompts: Sequence[str]) -> None:
    """What was drawn, as one sheet (.png) or as arrays (.npz)."""
    if path.suffix == ".png":
        samples.save_png(path, samples.grid(images, columns=20))
    elif path.suffix == ".npz":
        np.savez_compressed(path, images=images, prompts=np.array(prompts))
    else:
        raise dataset.DataError(f"save_images: expected a .png or .npz file, given {path.name!r}")


def report(result: dict[str, Any]) -> str:
    """The result as a table to read."""
    names = ("model", "model_all_pictures", "ceiling", "floor")
    lines = [
        f"{result['asked']} labels in style {result['style']}, "
        f"nearest of {result['searched']} pictures"
    ]
    lines.append(f"{'':20}{'top 1':>8}{'top 5':>8}{'distance':>10}{'copies':>8}")
    for name in names:
        if name in result:
            row = result[name]
            lines.append(
                f"{name.replace('_', ' '):20}{row['top1']:>8.1%}{row['top5']:>8.1%}"
                f"{row['median_distance']:>10.4f}{row['copies']:>8.1%}"
            )
    if "sets" in result:
        row = result["sets"]
        lines.append(
            f"over {row['features']}: Frechet distance {row['frechet_distance']:.2f}, kernel"
            f" distance {row['kernel_distance']:.4f} (deviation {row['kernel_deviation']:.4f}),"
            f" precision {row['precision']:.1%}, recall {row['recall']:.1%},"
            f" density {row['density']:.2f}, coverage {row['coverage']:.1%}"
            + (f", CLIP score {row['clip_score']:.2f}" if "clip_score" in row else "")
        )
    if "bits_per_dimension" in result:
        row = result["bits_per_dimension"]
        lines.append(
            f"bits per dimension: {row['known']:.3f} over {row['known_pictures']} pictures of these"
            f" things, {row['held_out']:.3f} over {row['held_out_pictures']} of others"
        )
    if "spread" in result:
        row = result["spread"]
        told = (
            f"{name.replace('_', ' ')} {row[name]['mean']:.4g} +- {row[name]['deviation']:.2g}"
            for name in ("top1", "top5", "frechet_distance", "clip_score")
            if name in row
        )
        lines.append(f"over {row['drawings']} drawings: {', '.join(told)}")
    return "\n".join(lines)


def write(result: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Keep the result beside the model, for its card."""
    Path(path).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
