"""Prompts for training: many ways to say one caption."""

from __future__ import annotations

from collections import Counter

import numpy as np

from . import dataset, tokenizer

TEMPLATE_WORDS = "a an emoji style of the picture"


def with_article(label: str) -> str:
    """'a red heart', 'an orange heart'."""
    return ("an " if label[:1].lower() in "aeiou" else "a ") + label


def with_style(text: str, style: str | None) -> str:
    """'red heart, noto style'."""
    return f"{text}, {style} style" if style else text


def random_prompt(
    pictures: dataset.Pictures, row: int, numbers: np.random.Generator, styled: float = 0.65
) -> str:
    """One prompt for a picture: article or not, sometimes tags, sometimes 'emoji', and the style
    with the probability `styled`.
    """
    article, emoji, tagged, style = numbers.random(4)
    text = pictures.labels[row]
    if article < 0.5:
        text = with_article(text)
    if emoji < 0.15:
        text += " emoji"
    if tagged < 0.15 and pictures.tags[row]:
        tags = pictures.tags[row]
        count = min(len(tags), int(numbers.integers(1, 4)))
        text = ", ".join([text, *(tags[i] for i in numbers.permutation(len(tags))[:count])])
    return with_style(text, pictures.styles[row] if style < styled else None)


def random_prompts(
    pictures: dataset.Pictures, rows: np.ndarray, dropped: float, numbers: np.random.Generator
) -> list[str]:
    """A prompt for each row; a share `dropped` of them is empty, for classifier-free guidance."""
    return [
        "" if numbers.random() < dropped else random_prompt(pictures, row, numbers) for row in rows
    ]


def word_counts(pictures: dataset.Pictures, favourites: set[str], weight: int = 50) -> Counter[str]:
    """How often each word is in the captions; labels among `favourites` weigh more."""
    counts: Counter[str] = Counter()
    for label, tags, style in zip(pictures.labels, pictures.tags, pictures.styles, strict=True):
        for word in tokenizer.words(label):
            counts[word] += weight if label in favourites else 3
        for word in tokenizer.words(f"{style} {TEMPLATE_WORDS}"):
            counts[word] += 1
        for tag in tags:
            for word in tokenizer.words(tag):
                counts[word] += 1
    return counts
