"""What is asked of a run of aMUSEd, checked."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ... import images as pictures
from ...decoding.request import TokenRequest
from ...errors import RequestError
from ...jobs import checks


@dataclass(kw_only=True)
class MaskedRequest(TokenRequest):
    """A call's arguments, checked, with defaults filled in.

    steps: of which int(steps * strength) are run; strength is 1 without images. noise_temperature:
    of the Gumbel noise that decides which tokens are masked again: at the first and the last step,
    or one number, see schedules.masked.plan. micro_conditions: width, height, crop (2), aesthetic
    score. images, masks: one for each picture, or None. known: [count, h, w] tokens to begin with,
    the mask token where a position is masked, or None.
    """

    steps: int = 1
    strength: float = 1.0
    noise_temperature: tuple[float, float] | float = 0.0
    micro_conditions: tuple[float, ...] = ()
    images: list[Any] | None = None
    masks: list[Any] | None = None
    known: Tensor | None = None

    @property
    def evaluations(self) -> int:
        return max(1, int(self.steps * self.strength))


def pictures_of(image: Any, mask: Any) -> tuple[list[Any] | None, list[Any] | None]:
    """The pictures of a call's `image` and `mask_image`, one by one."""
    if image is None and mask is not None:
        raise RequestError("mask_image: expected an image with it, given none")
    return (
        None if image is None else pictures.as_list(image, "image"),
        None if mask is None else pictures.as_list(mask, "mask_image", True),
    )


def per_picture(name: str, items: list[Any] | None, r: TokenRequest) -> list[Any] | None:
    """One item for every picture, from one for all, one per prompt or one each."""
    if items is None:
        return None
    if len(items) == 1:
        return items * r.count
    if len(items) == len(r.prompts):
        return [item for item in items for _ in range(r.per_prompt)]
    if len(items) != r.count:
        raise checks.refuse(
            name, f"one, {len(r.prompts)} (one per prompt) or {r.count}", len(items)
        )
    return items
