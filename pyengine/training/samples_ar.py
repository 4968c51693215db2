"""Pictures from a transformer in training: exported beside the run, drawn by pyengine itself."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from . import course, samples


def draw_grid(
    path: Path, run: course.Run, model, tokens, prompts: Sequence[str] = samples.PROMPTS
) -> None:
    """Draw the prompts with the averaged weights, then put the weights in training back.

    model: the VQ-VAE; tokens: the tokenizer.
    """
    from .. import from_pretrained
    from .export_ar import write_parts

    networks = run.networks
    kept = [parameter.detach().clone() for parameter in networks.parameters]
    networks.load_average(run.average.values)
    with tempfile.TemporaryDirectory() as folder:
        write_parts(Path(folder), networks, model, Path(tokens.name_or_path))
        generate = samples.generator(from_pretrained(folder, device="cpu"))
        images = generate(prompts, range(len(prompts)))
    networks.load_average(kept)
    samples.save_png(path, samples.grid(images, columns=8))
