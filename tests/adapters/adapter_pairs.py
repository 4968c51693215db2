"""Tiny checkpoints for adapters, opened by diffusers and by pyengine."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import diffusers
import numpy as np
import tiny
import torch

import pyengine

SMALL = {"layers_per_block": 1}
WRITERS = {
    "sd1": lambda folder: tiny.write_sd1(folder, unet=SMALL),
    "sd2": lambda folder: tiny.write_sd2(folder, unet=SMALL),
    "sdxl": lambda folder: tiny.write_sdxl(folder, unet=SMALL),
}
CALL = {"num_inference_steps": 2, "height": 32, "width": 32, "output_type": "np"}


@dataclass
class Opened:
    """A checkpoint folder."""

    folder: Path

    @cached_property
    def own(self):
        return pyengine.from_pretrained(self.folder, device="cpu")

    def theirs(self):
        """A new pipeline of diffusers': adapters change its models."""
        diffusers.utils.logging.set_verbosity_error()
        pipe = diffusers.DiffusionPipeline.from_pretrained(self.folder, safety_checker=None)
        pipe.set_progress_bar_config(disable=True)
        return pipe


def draw(pipe, prompt="a red heart", seed=3, **call):
    """A picture by either library, from the same generator."""
    generator = torch.Generator().manual_seed(seed)
    return pipe(prompt, generator=generator, **{**CALL, **call}).images


def psnr(a, b):
    mse = float(((a.astype(np.float64) - b.astype(np.float64)) ** 2).mean())
    return 200.0 if mse == 0 else -10 * np.log10(mse)
