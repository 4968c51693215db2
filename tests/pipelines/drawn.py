"""Pictures and masks to start from."""

import numpy as np
from PIL import Image


def photo(width, height, tile):
    """A picture with edges, colours and gradients."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (x / (width - 1), y / (height - 1), ((x // tile + y // tile) % 2))
    return Image.fromarray((np.stack(channels, axis=-1) * 255).astype(np.uint8))


def hole(width, height, left, top, right, bottom):
    """A mask: white, to be painted, within the box."""
    pixels = np.zeros((height, width), np.uint8)
    pixels[top:bottom, left:right] = 255
    return Image.fromarray(pixels)
