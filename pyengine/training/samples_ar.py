"""Pictures from a transformer in training: exported beside the run, drawn by pyengine itself."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import course, samples


def draw_grid(
    path: Path, run: course.Run, model, tokenizer_files: Path,
    prompts: Sequence[str] = samples.PROMPTS,
) -> None:  # fmt: skip
    """Draw the prompts with the averaged weights, then put the weights in training back.

    model: the VQ-VAE.
    """
    from .export_ar import write_parts

    networks = run.networks
    kept = [parameter.detach().clone() for parameter in networks.parameters]
    networks.load_average(run.average.values)
    try:
        with tempfile.TemporaryDirectory() as folder:
            write_parts(Path(folder), networks, model, tokenizer_files)
            draw(Path(folder), path, prompts)
    finally:
        networks.load_average(kept)


def draw(folder: Path, path: Path, prompts: Sequence[str] = samples.PROMPTS) -> None:
    """A sheet of what the model folder draws."""
    from .. import from_pretrained

    pipe = from_pretrained(folder, device="cpu")
    generate = samples.generator(pipe, steps=None, guidance=None)
    samples.save_png(path, samples.grid(generate(prompts, range(len(prompts))), columns=8))
