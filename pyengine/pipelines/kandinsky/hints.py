"""What Kandinsky 2.2's ControlNet is told beside the embeddings: a picture, such as of depths."""

from typing import Any

import torch
from torch import Tensor

from ... import images as pictures
from ...errors import RequestError
from ...jobs import checks
from ...models.unet.conditioning import HINT_FACTOR


def hints_of(hint: Any, needed: bool, height: int, width: int, counts: set[int]) -> Tensor | None:
    """[M, 3, 8 height, 8 width] of a call's `hint`, M one of counts; None without one.

    needed: whether the model reads hints. height, width: of the latents. Tensors are taken as they
    are, pictures become 0..1. Raises RequestError for what does not fit.
    """
    if hint is None or not needed:
        if needed:
            raise RequestError("hint: this decoder is a ControlNet and needs one, given None")
        if hint is not None:
            raise RequestError("hint: this decoder is no ControlNet, which alone takes one")
        return None
    sides = HINT_FACTOR * height, HINT_FACTOR * width
    parts = list(hint) if isinstance(hint, list | tuple) and hint else [hint]
    if all(isinstance(part, Tensor) for part in parts):
        for part in parts:
            rows = len(part) if part.dim() == 4 else 1
            checks.check_latents(part, (max(1, rows), 3, *sides), "hint")
        found = torch.cat(parts).float()
    else:
        items = pictures.as_list(hint, "hint")
        found = pictures.to_unit(items, *sides, "hint", [])
    if len(found) not in counts:
        raise checks.refuse("hint", f"{' or '.join(map(str, sorted(counts)))} of them", len(found))
    return found
