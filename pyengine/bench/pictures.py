"""What contestants draw, and when the phases of a diffusion picture begin."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .worker import Notes, Run

PROMPTS = ("a red heart", "a cat", "a blue car", "a tree", "a house", "a star", "a cake", "a fish")
PROMPT = PROMPTS[0]
SEED = 7
#: Of a picture of tokens, as LlamaGen samples.
SAMPLING = {"guidance_scale": 2.0, "temperature": 1.0, "top_k": 1000}
#: Decibels under which two pictures count as different.
AGREEMENT = 40.0


def timed(
    picture: Callable[[Callable[..., Any]], np.ndarray],
    unet: torch.nn.Module,
    notes: Notes,
    begin: float,
) -> Run:
    """picture(callback_on_step_end) as a Run. The first call notes when its first step began, since
    `begin`, and how long the last step took.
    """
    moments: list[float] = []
    hook = unet.register_forward_pre_hook(lambda *_: moments.append(time.perf_counter()))

    def after_step(*_: Any) -> dict[str, Any]:
        moments.append(time.perf_counter())
        return {}

    def run() -> np.ndarray:
        if "first_step_begins" in notes:
            return picture(lambda *_: {})
        image = picture(after_step)
        hook.remove()
        notes["first_step_begins"] = moments[0] - begin
        notes["step_seconds"] = moments[-1] - moments[-2]
        notes["decode_seconds"] = time.perf_counter() - moments[-1]
        return image

    return run
