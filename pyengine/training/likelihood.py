"""Bits per dimension of a model with an exact likelihood, over pictures known and held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import captions, dataset, evaluate, loop


def bits(
    pipe: Any,
    pictures: dataset.Pictures,
    concepts: Sequence[str],
    style: str,
    count: int,
    seed: int,
) -> dict[str, Any]:
    """Mean bits of a stored number under `pipe.bits_per_dimension`, with uniform dequantisation.

    pictures: the data set. Returns ``known`` over up to `count` pictures of the concepts in the
    style, ``held_out`` over as many of the style's pictures of other things, none of which the
    model has seen, and how many each has.
    """
    known = set(concepts)
    result: dict[str, Any] = {}
    for name, wanted in (("known", True), ("held_out", False)):
        labels = [
            label
            for label, own in zip(pictures.labels, pictures.styles, strict=True)
            if own == style and (label in known) == wanted
        ]
        chosen = pictures.select(evaluate.choose(labels, count, seed), {style})
        if not len(chosen):
            raise dataset.DataError(f"style: expected {name} pictures of it, given {style!r}")
        prompts = [captions.with_style(captions.with_article(x), style) for x in chosen.labels]
        images = list(chosen.images)
        found = pipe.bits_per_dimension(images, prompts, loop.torch_numbers(seed, "flow", 0))
        result |= {name: round(float(found.mean()), 4), f"{name}_pictures": len(chosen)}
    return result
