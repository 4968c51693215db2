"""Pictures in every mode and form of transparency, white (or opaque) on the left."""

import numpy as np
import torch
from PIL import Image

from pyengine import images

WIDTH, HEIGHT = 16, 8
#: Painted: the left half.
PAINTED = np.zeros((HEIGHT, WIDTH), np.uint8)
PAINTED[:, : WIDTH // 2] = 255
WANTED = torch.from_numpy(PAINTED / 255).float()[None, None]
#: Greys to tell scales by.
RAMP = np.linspace(0, 255, WIDTH * HEIGHT).round().astype(np.uint8).reshape(HEIGHT, WIDTH)

OPAQUE = ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV", "RGBX", "I", "F"]
NUMBERS = ["I;16", "I;16L", "I;16B", "I;16N"]
ALPHA = ["LA", "La", "PA", "RGBA", "RGBa"]


def grey(pixels):
    return Image.fromarray(pixels)


def as_mode(picture, mode):
    """An L or RGB picture in a mode; NUMBERS take their 0 to 65535."""
    if mode in NUMBERS:
        wide = np.asarray(picture).astype(np.uint16) * 257
        order = ">u2" if mode == "I;16B" else "<u2"
        return Image.frombytes(mode, picture.size, wide.astype(order).tobytes())
    if mode == "La":
        return picture.convert("LA").convert("La")
    if mode == "RGBa":
        return picture.convert("RGBA").convert("RGBa")
    return picture.convert(mode)


def layer(mode, colour, alpha=PAINTED):
    """A picture of one colour everywhere, transparent where alpha is 0."""
    rgba = Image.new("RGBA", alpha.shape[::-1], colour)
    rgba.putalpha(Image.fromarray(alpha))
    if mode == "La":
        return rgba.convert("LA").convert("La")
    return rgba.convert(mode)


def mask_of(item):
    return images.to_mask(images.as_list(item, "mask_image", True), HEIGHT, WIDTH, "mask_image", [])


def unit_of(item, warned=None):
    return images.to_unit(images.as_list(item, "image"), HEIGHT, WIDTH, "image", warned)


def keyed(mode, key, other):
    """Transparent by a colour key on the right, `other` on the left."""
    picture = Image.new(mode, (WIDTH, HEIGHT), key)
    picture.paste(other, (0, 0, WIDTH // 2, HEIGHT))
    picture.info["transparency"] = key
    return picture


def palettes():
    """A palette's forms of transparency: white on the left, transparent white on the right."""
    indices = grey((PAINTED == 0).astype(np.uint8))
    found = {}
    for name in ("bytes", "index", "RGBA"):
        picture = indices.copy()
        if name == "RGBA":
            picture = Image.frombytes("P", (WIDTH, HEIGHT), indices.tobytes())
            picture.putpalette(bytes([255] * 4 + [255, 255, 255, 0]), "RGBA")
        else:
            picture.putpalette([255] * 6)
            picture.info["transparency"] = 1 if name == "index" else bytes([255, 0])
        found[f"P {name}"] = picture
    return found


LAYERS = {
    **{mode: layer(mode, "white") for mode in ALPHA},
    **palettes(),
    "L key": keyed("L", 254, 255),
    "RGB key": keyed("RGB", (255, 255, 254), (255, 255, 255)),
    "1 key": keyed("1", 0, 255),
    "RGB 16-bit key": keyed("RGB", (255, 255, 254), (255, 255, 255)),
}
LAYERS["RGB 16-bit key"].info["transparency"] = (0xFFFF, 0xFF12, 0xFE34)


def deep_keyed():
    wide = np.where(PAINTED, 65535, 65000).astype(np.uint16)
    picture = Image.fromarray(wide)
    picture.info["transparency"] = 65000
    return picture


LAYERS["I;16 key"] = deep_keyed()
