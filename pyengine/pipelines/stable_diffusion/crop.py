"""A part of a picture, painted larger and laid back: inpainting's padding_mask_crop.

Equal to diffusers' to the pixel, which decides where whole numbers are rounded.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ... import images as pictures
from ...errors import RequestError
from ...jobs import checks
from ...pixels import to_grey, to_rgb

Region = tuple[int, int, int, int]


@dataclass(frozen=True)
class Crop:
    """image, mask: RGB and L, of `size`, (width, height), the part that is painted. region: where
    it lies, (left, top, right, bottom). whole, whole_mask: what it was cut out of.
    """

    image: Image.Image
    mask: Image.Image
    region: Region
    whole: Image.Image
    whole_mask: Image.Image

    def of(self, item: Any, field: str) -> Image.Image:
        """The same part of another picture, in RGB. Raises RequestError where that is no PIL
        picture of the whole one's size.
        """
        if not isinstance(item, Image.Image) or item.size != self.whole.size:
            given = item.size if isinstance(item, Image.Image) else type(item).__name__
            expected = f"a PIL picture of the size of image, {self.whole.size}"
            raise checks.refuse(f"padding_mask_crop: {field}", expected, given)
        whole = to_rgb(pictures.decode(item, field), field)
        return _within(whole.crop(self.region), *self.image.size)

    def lay(self, painted: Image.Image) -> Image.Image:
        """The whole picture with what was painted where the mask is white."""
        left, top, right, bottom = self.region
        sheet = Image.new("RGB", self.whole.size)
        sheet.paste(_within(painted, right - left, bottom - top, cover=True), (left, top))
        kept = Image.new("RGBa", self.whole.size)
        inverse = ImageOps.invert(self.whole_mask)
        kept.paste(self.whole.convert("RGBA").convert("RGBa"), mask=inverse)
        result = sheet.convert("RGBA")
        result.alpha_composite(kept.convert("RGBA"))
        return result.convert("RGB")


def cut(image: Any, mask: Any, size: tuple[int, int], pad: Any) -> Crop:
    """The part around what `mask` shows white, `pad` pixels wider, in the proportions of `size`,
    (width, height), and enlarged to it.

    Raises RequestError for pictures that are not PIL's or not of one size, and for a mask without
    anything to paint.
    """
    pad = checks.integer("padding_mask_crop", pad, 0, checks.MAX_SIDE)
    for name, item in (("image", image), ("mask_image", mask)):
        if not isinstance(item, Image.Image):
            raise checks.refuse(f"padding_mask_crop: {name}", "a PIL picture", type(item).__name__)
    if image.size != mask.size:
        raise checks.refuse(
            "padding_mask_crop: mask_image", f"the size of image, {image.size}", mask.size
        )
    whole = to_rgb(pictures.decode(image, "image"), "image")
    grey = to_grey(pictures.decode(mask, "mask_image"), "mask_image")
    region = _widen(_bounds(grey, pad), size, whole.size)
    return Crop(
        image=_within(whole.crop(region), *size),
        mask=_within(grey.crop(region).convert("RGB"), *size).convert("L"),
        region=region,
        whole=whole,
        whole_mask=grey,
    )


def _bounds(grey: Image.Image, pad: int) -> Region:
    """What is not black, and `pad` pixels around."""
    shown = np.asarray(grey) > 0
    if not shown.any():
        raise RequestError("padding_mask_crop: mask_image: expected something white, given nothing")
    (top, bottom), (left, right) = (
        (int(where[0]), int(where[-1]) + 1)
        for where in (np.flatnonzero(shown.any(axis=1)), np.flatnonzero(shown.any(axis=0)))
    )
    return (
        max(left - pad, 0),
        max(top - pad, 0),
        min(right + pad, grey.width),
        min(bottom + pad, grey.height),
    )


def _widen(region: Region, size: tuple[int, int], whole: tuple[int, int]) -> Region:
    """The region in the proportions of `size`, as far as the picture reaches."""
    left, top, right, bottom = region
    wanted = size[0] / size[1]
    if (right - left) / (bottom - top) > wanted:
        top, bottom = _grow(top, bottom, (right - left) / wanted, whole[1])
    else:
        left, right = _grow(left, right, (bottom - top) * wanted, whole[0])
    return left, top, right, bottom


def _grow(low: int, high: int, length: float, end: int) -> tuple[int, int]:
    """An interval of `length` around low..high, pushed back into 0..end where it reaches beyond."""
    more = int(length - (high - low))
    low, high = low - more // 2, high + more - more // 2
    if high >= end:
        low, high = low - (high - end), end
    if low < 0:
        low, high = 0, high - low
    return low, min(high, end)


def _within(image: Image.Image, width: int, height: int, cover: bool = False) -> Image.Image:
    """The picture on a sheet of width x height, its proportions kept: as large as fits, with its
    edges drawn out over the rest, or (cover) so large that nothing is left of the sheet.
    """
    sheet, own = width / height, image.width / image.height
    if sheet > own if cover else sheet < own:
        size = (width, image.height * width // image.width)
    else:
        size = (image.width * height // image.height, height)
    small = image.resize(size, resample=Image.Resampling.LANCZOS)
    result = Image.new("RGB", (width, height))
    x, y = width // 2 - size[0] // 2, height // 2 - size[1] // 2
    result.paste(small, (x, y))
    if not cover:
        _draw_out(result, small, x, y)
    return result


def _draw_out(sheet: Image.Image, small: Image.Image, x: int, y: int) -> None:
    """Fills what is left of the sheet around `small`, which lies at (x, y), with its edges."""
    if y > 0:
        for edge, at in ((0, 0), (small.height, y + small.height)):
            row = small.resize((sheet.width, y), box=(0, edge, sheet.width, edge))
            sheet.paste(row, (0, at))
    elif x > 0:
        for edge, at in ((0, 0), (small.width, x + small.width)):
            column = small.resize((x, sheet.height), box=(edge, 0, edge, sheet.height))
            sheet.paste(column, (at, 0))
