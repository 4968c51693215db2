"""How a family comes to a picture: from noise, masked tokens or its first pixel, step by step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import RequestError
from ..images import save_atomically
from .sheet import cell, grid

#: Frames of a strip and of an animation.
FRAMES = 10
#: Milliseconds of a frame, and of the last one.
SHOWN, LAST = 250, 1500


def frames_of(pipe: Any, prompt: str, seed: int, frames: int = FRAMES) -> list[Image.Image]:
    """The picture after up to `frames` steps, evenly spaced, the last one among them; of a model
    with one step that picture alone.
    """
    steps = pipe.steps(prompt, seed=seed)
    taken = list(steps)
    count = min(frames, len(taken))
    places = sorted({round((i + 1) * len(taken) / count) - 1 for i in range(count)})
    found: list[Image.Image] = [taken[place].preview()[0] for place in places[:-1]]
    return [*found, steps.output.images[0]]


def strip(named: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """A row for each model: (its name, its frames)."""
    return grid([list(frames) for _, frames in named], names=[[name] for name, _ in named])


def animate(named: Sequence[tuple[str, Sequence[Image.Image]]], path: Path) -> None:
    """Writes an animated .webp or .png of all models side by side; those with fewer frames wait at
    their last. Raises RequestError for another kind of file.
    """
    if path.suffix not in (".webp", ".png"):
        raise RequestError(f"trajectory: expected a .webp or .png file, given {path.name!r}")
    count = max(len(frames) for _, frames in named)
    pages = [
        grid(
            [[frames[min(i, len(frames) - 1)] for _, frames in named]],
            [[name] for name, _ in named],
        )
        for i in range(count)
    ]
    times = [SHOWN] * (count - 1) + [LAST]
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=times, loop=0)


__all__ = ["animate", "cell", "frames_of", "save_atomically", "strip"]
