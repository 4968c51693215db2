"""Prompts and settings of the pictures that are generated, and the times of their phases."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .worker import Notes, Run

PROMPTS = ("a red heart", "a cat", "a blue car", "a tree", "a house", "a star", "a cake", "a fish")
PROMPT = PROMPTS[0]
SEED = 7
#: How LlamaGen samples a picture's tokens.
SAMPLING = {"guidance_scale": 2.0, "temperature": 1.0, "top_k": 1000}
#: PSNR in decibels below which two pictures count as different.
AGREEMENT = 40.0


def timed(
    picture: Callable[..., np.ndarray], network: torch.nn.Module, notes: Notes, begin: float
) -> Run:
    """A Run of picture(callback_on_step_end=...). Its first call notes the seconds from `begin` to
    the network's first call, of the last step, and of what follows it.
    """
    moments: list[float] = []
    hook = network.register_forward_pre_hook(lambda *_: moments.append(time.perf_counter()))

    def after_step(*_: Any) -> dict[str, Any]:
        moments.append(time.perf_counter())
        return {}

    def run() -> np.ndarray:
        if "first_step_begins" in notes:
            return picture(callback_on_step_end=lambda *_: {})
        image = picture(callback_on_step_end=after_step)
        hook.remove()
        notes["first_step_begins"] = moments[0] - begin
        notes["step_seconds"] = moments[-1] - moments[-2]
        notes["decode_seconds"] = time.perf_counter() - moments[-1]
        return image

    return run
