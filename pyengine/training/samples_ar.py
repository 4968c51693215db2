"""Pictures from a transformer in training: exported beside the run, drawn by pyengine itself."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import course, parts_ar, samples


def draw_grid(
    path: Path, run: course.Run, model: Any, tokenizer_files: Path,
    prompts: Sequence[str] = samples.PROMPTS,
) -> None:  # fmt: skip
    """Draw the prompts with the averaged weights, then put the weights in training back.

    model: the VQ-VAE.
    """
    with run.averaged(), tempfile.TemporaryDirectory() as folder:
        parts_ar.write_parts(Path(folder), run.networks, model, tokenizer_files)
        draw(Path(folder), path, prompts)


def draw(folder: Path, path: Path, prompts: Sequence[str] = samples.PROMPTS) -> None:
    """A sheet of what the model folder draws."""
    from .. import from_pretrained

    pipe = from_pretrained(folder, device="cpu")
    samples.draw(path, samples.generator(pipe, steps=None, guidance=None), prompts)
