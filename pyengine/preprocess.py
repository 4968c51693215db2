"""Pictures for ControlNets that need no network: edges, greys, blurs, negatives.

    edges = pyengine.preprocess.canny(photo)
    pipe("a house of glass", image=edges)

Each takes a picture of PIL, an array [H, W, 3] or a tensor [3, H, W] (docs/pictures.md says what
numbers mean) and gives a PIL picture in mode RGB of the same size. NumPy and Pillow alone.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from . import images
from .errors import RequestError
from .pixels import made
from .weights.text import did_you_mean, show

#: tan(22.5 degrees) in fixed point of 15 bits, as OpenCV has it.
_TG22, _SHIFT = 13573, 15


def canny(picture: Any, low: float = 100, high: float = 200) -> Image.Image:
    """White edges on black: Canny 1986 (IEEE PAMI 8(6)), with the choices of OpenCV's cv2.Canny.

    Sobel's 3x3 derivatives with the border repeated, of each pixel the channel where |dx| + |dy| is
    largest; edges are where that is a maximum across the edge and above `high`, or above `low` and
    connected with such a pixel. No blur comes before. Integers throughout, so the result is that of
    cv2.Canny(rgb, low, high) bit for bit.

    Args:
        picture: a PIL picture, an array [H, W, 3] or a tensor [3, H, W].
        low, high: thresholds of |dx| + |dy|, 0 to 2040, swapped where low is the larger.
    """
    low, high = (_number(name, value, 2040) for name, value in (("low", low), ("high", high)))
    low, high = sorted((int(np.floor(low)), int(np.floor(high))))
    dx, dy = _derivatives(np.asarray(_rgb(picture)).astype(np.int32))
    size = np.abs(dx) + np.abs(dy)
    best = size.argmax(axis=2)[..., None]  # the first of equals
    dx, dy, size = (np.take_along_axis(a, best, axis=2)[..., 0] for a in (dx, dy, size))
    ridge = _ridges(dx, dy, size) & (size > low)
    edges = _connected(ridge & (size > high), ridge)
    return Image.fromarray((edges * 255).astype(np.uint8)).convert("RGB")


def gray(picture: Any) -> Image.Image:
    """The picture in greys, by ITU-R BT.601 as Pillow's mode L has it."""
    return _rgb(picture).convert("L").convert("RGB")


def invert(picture: Any) -> Image.Image:
    """The negative: drawings in black on white for networks that were trained on white lines.

    Args:
        picture: a PIL picture, an array [H, W, 3] or a tensor [3, H, W].
    """
    return Image.fromarray(255 - np.asarray(_rgb(picture)))


def tile(picture: Any, factor: float = 1.0) -> Image.Image:
    """The picture made smaller and enlarged again, both by Lanczos: what a tile ControlNet makes
    sharp.

    Args:
        picture: a PIL picture, an array [H, W, 3] or a tensor [3, H, W].
        factor: 1 to 64; 1 leaves it as it is.
    """
    factor = _number("factor", factor, 64, 1)
    whole = _rgb(picture)
    small = tuple(max(1, round(side / factor)) for side in whole.size)
    if small == whole.size:
        return whole
    lanczos = Image.Resampling.LANCZOS
    return whole.resize((small[0], small[1]), lanczos).resize(whole.size, lanczos)


#: By name, as the command line's --control-kind takes them.
KINDS: dict[str, Callable[[Any], Image.Image]] = {
    "canny": canny,
    "gray": gray,
    "invert": invert,
    "tile": tile,
}


def prepare(picture: Any, kind: str) -> Image.Image:
    """The picture as a ControlNet of a kind is shown it, by that function's defaults.

    Args:
        picture: a PIL picture, an array [H, W, 3] or a tensor [3, H, W].
        kind: one of KINDS.

    Raises:
        RequestError: for other kinds.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        raise RequestError(
            f"control_kind: expected one of {', '.join(KINDS)}, given {show(kind)}"
            f"{did_you_mean(kind, KINDS)}"
        )
    return KINDS[kind](picture)


def _rgb(picture: Any) -> Image.Image:
    items = images.as_list(picture, "picture")
    if len(items) != 1:
        raise RequestError(f"picture: expected one, given {len(items)}")
    (found,) = made([images.numbers_of(items[0], "picture", 3)], "picture", mask=False)
    if isinstance(found, Image.Image):
        return found.convert("RGB")
    return images.from_unit(found, "pil")[0]  # type: ignore[no-any-return]


def _number(name: str, value: Any, high: float, low: float = 0) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not low <= value <= high:
        raise RequestError(
            f"{name}: expected a number from {low:g} to {high:g}, given {show(value)}"
        )
    return float(value)


def _derivatives(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sobel's, [H, W, C] each; pixels beyond the border are those at it."""
    wide = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = wide[:-2] + 2 * wide[1:-1] + wide[2:]
    columns = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    return rows[:, 2:] - rows[:, :-2], columns[2:] - columns[:-2]


def _ridges(dx: np.ndarray, dy: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Whether `size` is a maximum across the edge, in the nearest of four directions."""
    around = np.pad(size, 1)
    height, width = size.shape

    def beside(down: int, right: int) -> np.ndarray:
        return around[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    x, y = np.abs(dx).astype(np.int64), np.abs(dy).astype(np.int64) << _SHIFT
    flat = y < x * _TG22
    steep = y > x * _TG22 + (x << (_SHIFT + 1))
    across = (size > beside(0, -1)) & (size >= beside(0, 1))
    down = (size > beside(-1, 0)) & (size >= beside(1, 0))
    falling = (size > beside(-1, -1)) & (size > beside(1, 1))
    rising = (size > beside(-1, 1)) & (size > beside(1, -1))
    slanted = np.where((dx ^ dy) < 0, rising, falling)
    return np.where(flat, across, np.where(steep, down, slanted))


def _connected(strong: np.ndarray, weak: np.ndarray) -> np.ndarray:
    """The weak pixels that strong ones lead to, by the eight neighbours of each."""
    width = weak.shape[1]
    found = np.pad(strong, 1)
    open_ = np.pad(weak, 1) & ~found
    row = width + 2
    steps = np.array([-row - 1, -row, -row + 1, -1, 1, row - 1, row, row + 1])
    flat, left = found.reshape(-1), open_.reshape(-1)
    front = np.flatnonzero(flat)
    while len(front):
        near = np.unique((front[:, None] + steps).reshape(-1))
        front = near[left[near]]
        flat[front], left[front] = True, False
    return found[1:-1, 1:-1]
