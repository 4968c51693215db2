"""What DeepFloyd IF begins from besides noise: a picture, or what a mask leaves of one."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from ... import images as pictures
from ...errors import RequestError
from ...jobs import checks
from ..arguments import check

#: How PIL pictures are resized, as diffusers' IF pipelines have it.
BICUBIC = Image.Resampling.BICUBIC


class Strengths(Protocol):
    """Defaults of a call: of image-to-image, and of inpainting."""

    @property
    def strength(self) -> float: ...

    @property
    def inpaint_strength(self) -> float: ...


@dataclass(frozen=True)
class Beginning:
    """The pictures that a call's denoising begins from.

    clean: [N, 3, height, width] in -1..1, one for each picture of the call. strength: 0 to 1, the
    share of the steps that is run. mask: [N, 1, height, width], 1 where the picture is made anew,
    0 where `clean` stays as it is; None: all of it is made anew.
    """

    clean: Tensor
    strength: float
    mask: Tensor | None = None


@dataclass(frozen=True)
class Given:
    """A call's arguments of what it begins from; items, masks: as images.as_list gives them.

    name: the argument that the pictures came by.
    """

    name: str
    items: list[Any]
    masks: list[Any] | None
    strength: float

    @classmethod
    def of(
        cls, name: str, image: Any, mask: Any, strength: Any, defaults: Strengths
    ) -> "Given | None":
        """The arguments, checked; None where the call begins from noise. Raises RequestError."""
        if image is None:
            for other, value in (("strength", strength), ("mask_image", mask)):
                if value is not None:
                    raise RequestError(f"{other}: expected only together with {name}")
            return None
        if strength is None:
            strength = defaults.strength if mask is None else defaults.inpaint_strength
        items = pictures.as_list(image, name)
        masks = None if mask is None else pictures.as_list(mask, "mask_image", grey=True)
        return cls(name, items, masks, check("strength", strength))

    def size(self, side: int) -> tuple[int, int]:
        """(height, width) of the pictures: of arrays and tensors their own; PIL pictures have the
        model's `side` as their smaller one, and the other rounded to a multiple of 8, as in
        diffusers. Raises RequestError where they differ.
        """
        found = {_resized(item, side) for item in self.items}
        if len(found) > 1:
            sizes = ", ".join(f"{width}x{height}" for height, width in sorted(found))
            raise checks.refuse(self.name, "pictures of one size, or height and width", sizes)
        return found.pop()

    def read(self, height: int, width: int, count: int, batch: int) -> Beginning:
        """For a call of `count` pictures of `batch` prompts. Raises RequestError."""
        items = checks.spread(self.name, self.items, count, batch)
        # Each is read once: those of a prompt's pictures follow each other.
        rows = {
            id(item): pictures.to_tensor([item], height, width, self.name, resample=BICUBIC)
            for item in self.items
        }
        mask = None
        if self.masks is not None:
            masks = checks.spread("mask_image", self.masks, count, batch)
            mask = pictures.to_mask(masks, height, width, "mask_image", resample=BICUBIC)
        clean = torch.cat([rows[id(item)] for item in items])
        return Beginning(clean, self.strength, mask)


def _resized(item: Any, side: int) -> tuple[int, int]:
    height, width = pictures.size_of(item)
    if not isinstance(item, Image.Image):
        return height, width
    ratio = width / height
    if ratio >= 1:
        return side, round(side / 8 * ratio) * 8
    return round(side / 8 / ratio) * 8, side
