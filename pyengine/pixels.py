"""What a picture's numbers mean: modes of PIL, dtypes, transparency, and which number is white.

Transparency of any form (alpha, a palette's, a colour key) is laid on white in a picture. In a mask
it is not painted: a mask is its brightness times its alpha, as if it lay on black, so one that is
drawn in white on a transparent layer paints what was drawn.

White is told by the type of the numbers and the largest of them, those of all pictures of an
argument together: 1 for booleans and floats, 255 for 8 bits; for wider whole numbers and PIL's
modes I and F the first of 1 (F), 255 and 65535 that none exceeds. A mask of whole numbers of which
none exceeds 1 is one of zeros and ones. An array of such a picture is refused: it would be black.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from .errors import RequestError
from .weights.text import show

if TYPE_CHECKING:
    import torch

MAX_PIXELS = 1 << 26  # of a picture that is read: 8192 x 8192
WIDE = 65535
#: A picture all of whose numbers are below is said to be nearly black: their scale was another.
DARK = 2.5 / 255
#: PNG's grey levels of fewer than 8 bits, which Pillow spreads over 0 to 255, but not their key.
_SPREAD = {"L;2": 85, "L;4": 17}


@dataclass(frozen=True)
class Numbers:
    """A picture before it is known which of its numbers is white.

    kind: their dtype, or PIL's mode. high: the largest. make: of white a picture in mode L or RGB,
    or a tensor [1, C, H, W] in [0, 1]. array: whether it is an array or a tensor.
    """

    kind: str
    high: float
    make: Callable[[float], Any]
    array: bool = False

    @property
    def whole(self) -> bool:
        return self.kind != "bool" and not self.kind.startswith(("float", "bfloat", "F"))


def made(pictures: Sequence[Numbers], field: str, mask: bool) -> list[Any]:
    """Each picture with the white that all of its kind share. Raises RequestError."""
    highs: dict[str, float] = {}
    for p in pictures:
        highs[p.kind] = max(p.high, highs.get(p.kind, 0.0))
    for p in pictures:
        if p.array and p.whole and not mask and highs[p.kind] == 1:
            raise RequestError(
                f"{field}: expected {p.kind} from 0 to 255, given 0 and 1 alone, which is black:"
                " give booleans or floats, or multiply by 255"
            )
    return [p.make(_white(p, highs[p.kind], mask)) for p in pictures]


def _white(p: Numbers, high: float, mask: bool) -> float:
    if p.kind == "bool" or (high <= 1 and (mask or not p.whole)):
        return 1
    return 255 if high <= 255 else WIDE


# --- PIL ------------------------------------------------------------------------------------------


def to_rgb(image: Image.Image, field: str) -> Image.Image:
    """`image` in mode RGB; transparent parts become white. Raises RequestError."""
    rgb: Image.Image = made([read_image(image, field, mask=False)], field, mask=False)[0]
    return rgb


def to_grey(image: Image.Image, field: str) -> Image.Image:
    """A mask in mode L; transparent parts become black. Raises RequestError."""
    grey: Image.Image = made([read_image(image, field, mask=True)], field, mask=True)[0]
    return grey.convert("L")


def read_image(image: Image.Image, field: str, mask: bool) -> Numbers:
    """Of a decoded image of any mode: makes mode RGB, of an opaque L mask mode L."""
    if image.mode.startswith(("I", "F")):
        return _read_deep(image, field, mask)
    flat = _flat(image, field, mask)
    if not mask:  # 8 bits are 8 bits, however dark
        return Numbers("8 bits", 255, lambda white: flat)

    def make(white: float) -> Image.Image:
        spread = [min(255, 255 * v) for v in range(256)]
        return flat if white == 255 else flat.point(spread * len(flat.getbands()))

    return Numbers("8 bits", float(np.max(flat.getextrema())), make)


def _read_deep(image: Image.Image, field: str, mask: bool) -> Numbers:
    """Of one number a pixel: modes I and F, I;16 and its kin."""
    values = np.asarray(image, dtype=np.float64)
    check_range(values.min().item(), values.max().item(), field, f"mode {image.mode}")
    key = image.info.get("transparency")

    def make(white: float) -> Image.Image:
        grey = Image.fromarray((values / (white / 255)).round().astype(np.uint8))
        if isinstance(key, int | float):
            alpha = np.where(values == key, 0, 255).astype(np.uint8)
            grey = Image.merge("LA", (grey, Image.fromarray(alpha)))
        return _flat(grey, field, mask).convert("RGB")

    return Numbers(image.mode, values.max().item(), make)


def _flat(image: Image.Image, field: str, mask: bool) -> Image.Image:
    """In mode RGB, an opaque L mask in its own; what is transparent laid on white, a mask on black.

    (Pillow resizes before it takes the brightness of RGB, as diffusers does with masks.)
    """
    try:
        image = _known_key(image)
        if image.mode == "La":
            image = image.convert("LA")
        if image.has_transparency_data:
            rgba = image.convert("RGBA")
            ground = Image.new("RGBA", rgba.size, "black" if mask else "white")
            image = Image.alpha_composite(ground, rgba)
        return image if image.mode == "L" and mask else image.convert("RGB")
    except (ValueError, TypeError, OverflowError, OSError, ImportError) as e:
        raise RequestError(f"{field}: mode {image.mode} cannot be converted: {show(str(e))}") from e


def _known_key(image: Image.Image) -> Image.Image:
    """With a colour key of 8 bits, where Pillow has 16-bit colours' in that of the file."""
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        image = image.copy()
        image.info["transparency"] = tuple(v >> 8 for v in key)
    return image


def mend_key(image: Image.Image) -> None:
    """Before a file's pixels are read: a PNG's colour key in the scale that Pillow gives pixels,
    where it leaves the key in the file's.
    """
    key, tile = image.info.get("transparency"), getattr(image, "tile", None)
    if key is None or not tile:
        return
    raw = tile[0][3]
    raw = raw[0] if isinstance(raw, tuple) and raw else raw
    if raw in _SPREAD and isinstance(key, int):
        image.info["transparency"] = key * _SPREAD[raw]
    elif raw == "RGB;16B" and isinstance(key, tuple):
        image.info["transparency"] = tuple(v >> 8 for v in key)


def check_range(low: float, high: float, field: str, kind: str) -> None:
    """Raises RequestError for numbers whose white cannot be told."""
    if not (low >= 0 and high <= WIDE):  # NaN fails too
        raise RequestError(
            f"{field}: expected numbers from 0 to 1, 255 or {WIDE}, given {low:g} to {high:g}"
            f" ({kind})"
        )


# --- arrays and tensors ---------------------------------------------------------------------------


def is_tensor(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "numpy")


def read_array(item: Any, field: str, channels: int) -> Numbers:
    """Of an array [H, W(, C)] or a tensor [(C,) H, W]: makes float32 [1, channels, H, W]."""
    value, kind = _tensor(item, field, channels)
    low, high = value.min().item(), value.max().item()
    if kind.startswith(("float", "bfloat")):
        _check_unit(low, high, field)
    else:
        check_range(low, high, field, kind)

    def make(white: float) -> "torch.Tensor":
        return value.float() if white == 1 else value.float() / white

    return Numbers(kind, high, make, array=True)


def _tensor(item: Any, field: str, channels: int) -> tuple["torch.Tensor", str]:
    """([1, channels, H, W], its dtype's name); whole numbers that torch computes little with are
    float64.
    """
    import torch

    tensor = is_tensor(item)
    if tensor:
        value, kind = item.detach().cpu(), str(item.dtype).removeprefix("torch.")
    else:
        kind = item.dtype.name
        value = item if item.dtype in (np.uint8, np.bool_, np.float32) else item.astype(np.float64)
        value = torch.from_numpy(np.ascontiguousarray(value))
    shape, layout = tuple(value.shape), f"[{channels}, H, W]" if tensor else f"[H, W, {channels}]"
    if value.ndim == 2 and channels == 1:
        value = value[None] if tensor else value[..., None]
    if value.ndim != 3 or value.shape[0 if tensor else -1] != channels or 0 in shape:
        raise RequestError(f"{field}: expected shape {layout}, given {list(shape)}")
    if value.numel() > channels * MAX_PIXELS:
        raise RequestError(f"{field}: expected at most {MAX_PIXELS} pixels, given {list(shape)}")
    if value.is_complex():
        raise RequestError(f"{field}: expected real numbers, given {kind}")
    if not value.is_floating_point() and value.dtype != torch.uint8:
        value = value.to(torch.float64)
    return (value if tensor else value.permute(2, 0, 1))[None], kind


def _check_unit(low: float, high: float, field: str) -> None:
    if low >= 0.0 and high <= 1.0:  # NaN fails too
        return
    way = ""
    if low >= 0 and 1 < high <= 255:
        way = ": divide by 255"
    elif -1 <= low < 0 and high <= 1:
        way = ": give x / 2 + 0.5"
    raise RequestError(
        f"{field}: expected values in [0, 1] of floats, given {low:g} to {high:g}{way}"
    )


# --- what to warn of ------------------------------------------------------------------------------


def warn_of_dark(picture: "torch.Tensor", field: str, warned: list[str] | None) -> None:
    """Says so where the largest number of a picture in [0, 1] is next to nothing."""
    high = picture.max().item()
    if 0 < high < DARK:
        say(f"{field}: nearly black: its largest number is {high:.2g} of 1", warned)


def warn_of_mask(masks: "torch.Tensor", field: str, warned: list[str] | None) -> None:
    """Says so where one of the masks [N, 1, H, W] of zeros and ones is all of one kind."""
    for value, what in enumerate(
        (
            "nothing of it is white, so nothing is made anew (white is; black and transparent"
            " is kept)",
            "all of it is white, so nothing of the picture is kept",
        )
    ):
        found = [i for i, mask in enumerate(masks) if (mask == value).all()]
        if not found:
            continue
        every = len(found) == len(masks)
        which = "" if every else f" ({', '.join(str(i + 1) for i in found)} of {len(masks)})"
        say(f"{field}{which}: {what}", warned)


def say(message: str, warned: list[str] | None) -> None:
    """Adds a warning to a run's, or issues it where there is no run."""
    if warned is None:
        warnings.warn(message, stacklevel=4)
    elif message not in warned:
        warned.append(message)
