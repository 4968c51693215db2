"""Captioned pictures in memory: load, choose, put into batches."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import RequestError

DATA_VARIABLE = "PYENGINE_DATA"
#: The file of a data folder that recipes learn from.
TRAIN = "train.npz"


class DataError(RequestError):
    """The training data is missing or malformed."""


@dataclass(frozen=True)
class Pictures:
    """Pictures with their captions, row by row.

    images: uint8 [N, height, width, 3], RGB on white.
    """

    images: np.ndarray
    styles: tuple[str, ...]
    labels: tuple[str, ...]
    tags: tuple[tuple[str, ...], ...]
    hexcodes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: Sequence[int]) -> Pictures:
        """The pictures of the given rows, in that order."""
        return Pictures(
            self.images[np.asarray(index, dtype=np.int64)],
            styles=tuple(self.styles[i] for i in index),
            labels=tuple(self.labels[i] for i in index),
            tags=tuple(self.tags[i] for i in index),
            hexcodes=tuple(self.hexcodes[i] for i in index),
        )

    def select(
        self, labels: Iterable[str] | None = None, styles: Iterable[str] | None = None
    ) -> Pictures:
        """The pictures whose label and style are among those given; None means all."""
        wanted_labels = None if labels is None else set(labels)
        wanted_styles = None if styles is None else set(styles)
        index = [
            i
            for i in range(len(self))
            if (wanted_labels is None or self.labels[i] in wanted_labels)
            and (wanted_styles is None or self.styles[i] in wanted_styles)
        ]
        return self.rows(index)


def resolve(data: str | os.PathLike[str] | None) -> Path:
    """The folder or .npz of the data set: the argument, or else $PYENGINE_DATA."""
    chosen = data if data is not None else os.environ.get(DATA_VARIABLE)
    if not chosen:
        raise DataError(
            f"data: expected a folder or .npz file (or ${DATA_VARIABLE}), given nothing"
        )
    path = Path(chosen)
    if not path.exists():
        raise DataError(f"data: expected an existing folder or .npz file, given {str(path)!r}")
    return path


def load(data: str | os.PathLike[str] | None = None) -> Pictures:
    """Read train.npz from a folder, or one .npz file."""
    path = resolve(data)
    if path.is_dir():
        path = path / TRAIN
        if not path.exists():
            raise DataError(
                f"data: expected {path.name} in the folder, given {str(path.parent)!r} without it"
            )
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, captions = archive["images"], archive["captions"]
    except (OSError, KeyError, ValueError) as error:
        raise DataError(
            f"{path.name}: expected an .npz with images and captions, given {error}"
        ) from error
    return from_arrays(images, captions)


def check_images(images: np.ndarray) -> None:
    """Raises DataError for anything but uint8 [N, height, width, 3]."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise DataError(
            "images: expected uint8 [N, height, width, 3], "
            f"given {images.dtype} {list(images.shape)}"
        )


def from_arrays(images: np.ndarray, captions: Sequence[str]) -> Pictures:
    """Check the arrays of a data file and parse its captions."""
    check_images(images)
    if len(captions) != len(images):
        raise DataError(f"captions: expected {len(images)}, one per picture, given {len(captions)}")
    if not len(images):
        raise DataError("images: expected at least one picture, given none")
    parsed = [_parse(str(text), row) for row, text in enumerate(captions)]
    return Pictures(
        images,
        styles=tuple(caption["style"] for caption in parsed),
        labels=tuple(caption["label"] for caption in parsed),
        tags=tuple(tuple(caption.get("tags", ())) for caption in parsed),
        hexcodes=tuple(caption.get("hexcode", "") for caption in parsed),
    )


def _parse(text: str, row: int) -> dict[str, Any]:
    try:
        caption: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"captions[{row}]: expected a JSON object, given {text[:40]!r}") from error
    for name in ("style", "label"):
        if not isinstance(caption, dict) or not isinstance(caption.get(name), str):
            raise DataError(f"captions[{row}].{name}: expected a string, given {text[:40]!r}")
    return caption


def save(path: Path, images: np.ndarray, captions: Sequence[dict[str, Any]]) -> None:
    """Write a data file that :func:`load` reads."""
    lines = np.array([json.dumps(caption, ensure_ascii=False) for caption in captions])
    temporary = path.with_name(path.name + ".partial.npz")
    np.savez_compressed(temporary, images=images, captions=lines)
    os.replace(temporary, path)


def to_float(images: np.ndarray) -> Any:
    """uint8 [N, H, W, 3] -> float32 torch tensor [N, 3, H, W] in [-1, 1], channels last."""
    import torch

    tensor = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    return tensor.to(torch.float32) / 127.5 - 1.0


def to_uint8(tensor: Any) -> np.ndarray:
    """The inverse of :func:`to_float`, clamped and rounded."""
    import torch

    pixels = ((tensor.float().clamp(-1, 1) + 1.0) * 127.5).round().to(torch.uint8)
    return np.asarray(pixels.permute(0, 2, 3, 1).contiguous().cpu())
