"""Pictures as small pictures in a palette's colours.

Chen et al. 2020, "Generative Pretraining from Pixels": pixels as clusters of colours.
"""

from __future__ import annotations

import numpy as np

from .. import dataset


def shrink(images: np.ndarray, side: int) -> np.ndarray:
    """uint8 [N, H, W, 3] -> float64 [N, side, side, 3] averages in 0..255."""
    dataset.check_images(images)
    count, height, width, _ = images.shape
    if height % side or width % side:
        raise dataset.DataError(
            f"images: expected sides that {side} divides, given {height}x{width}"
        )
    blocks = images.reshape(count, side, height // side, side, width // side, 3)
    means: np.ndarray = blocks.mean(axis=(2, 4), dtype=np.float64)
    return means


def learn(
    pixels: np.ndarray, colours: int, numbers: np.random.Generator, rounds: int = 10
) -> np.ndarray:
    """uint8 [colours, 3]: the most frequent of pixels [..., 3], then k-means of all others.

    Arthur and Vassilvitskii 2007, "k-means++: the advantages of careful seeding".
    """
    flat, counts = np.unique(np.rint(pixels.reshape(-1, 3)), axis=0, return_counts=True)
    background = flat[[counts.argmax()]]
    flat, weights = np.delete(flat, counts.argmax(), 0), np.delete(counts, counts.argmax())
    centres = background
    nearest = _squares(flat, centres)[:, 0]
    for _ in range(colours - 1):
        far = nearest * weights
        centres = np.vstack([centres, flat[int(numbers.choice(len(flat), p=far / far.sum()))]])
        nearest = np.minimum(nearest, _squares(flat, centres[-1:])[:, 0])
    for _ in range(rounds):
        owner = _squares(flat, centres).argmin(axis=1)
        for k in range(1, colours):
            mine = owner == k
            if mine.any():
                centres[k] = np.average(flat[mine], axis=0, weights=weights[mine])
    return np.asarray(np.rint(centres), np.uint8)


def quantise(pixels: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """int64 [N, side * side]: the nearest colour of each of pixels [N, side, side, 3]."""
    flat = pixels.reshape(-1, 3).astype(np.float64)
    found = _squares(flat, palette.astype(np.float64)).argmin(axis=1)
    return np.asarray(found.reshape(len(pixels), -1))


def _squares(pixels: np.ndarray, centres: np.ndarray) -> np.ndarray:
    squares: np.ndarray = ((pixels[:, None] - centres[None]) ** 2).sum(axis=2)
    return squares
