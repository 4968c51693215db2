"""NaN and infinity are said in words where they are found: a picture made of them is black.

They come from damaged weights, from a dtype that is too narrow (float16 ends at 65504) and from
extreme settings. No check hides them, and none costs more than one look at small tensors.
"""

import math

import torch
from torch import Tensor

from .errors import NotFiniteError

_HELP = {
    torch.float16: "in float16, which ends at 65504: dtype float32 or bfloat16 would help",
    torch.bfloat16: "in bfloat16: dtype float32 may help, else the weights are damaged",
}
_DAMAGED = "in float32: the weights are damaged, or settings are too extreme"


def all_finite(x: Tensor) -> bool:
    """Whether x holds neither NaN nor infinity. Waits for a GPU."""
    # A sum shows both and takes a fifth of the time; only where it overflows is it not enough.
    return math.isfinite(x.sum(dtype=torch.float32).item()) or bool(torch.isfinite(x).all())


def first_bad(x: Tensor) -> tuple[int, str] | None:
    """(row, "NaN" or "infinity") of the first row of x [N, ...] that is not finite, or None."""
    bad = ~torch.isfinite(x).flatten(1).all(dim=1)
    if not bad.any():
        return None
    row = int(bad.nonzero()[0])
    return row, kind(x[row])


def kind(x: Tensor) -> str:
    return "NaN" if bool(x.isnan().any()) else "infinity"


def not_finite(part: str, found: str, where: str, dtype: torch.dtype) -> NotFiniteError:
    """The error for `found`, "NaN" or "infinity", in a part of a model. where: "picture 1..."."""
    return NotFiniteError(
        f"{part}: expected finite numbers, found {found} in {where} ({_HELP.get(dtype, _DAMAGED)})"
    )


def check_finite(part: str, x: Tensor, pictures: int | None = None, at: str = "") -> None:
    """Raises NotFiniteError for x [N, ...] with NaN or infinity, which names part and picture.

    pictures: how many there are, where each has several rows of x: row r is of r % pictures.
    """
    if all_finite(x):
        return
    row, found = first_bad(x) or (0, "NaN")
    raise not_finite(part, found, f"picture {row % (pictures or len(x))}{at}", x.dtype)
