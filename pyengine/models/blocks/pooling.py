"""Mean pooling, in plain torch: no op does it.

It is read once and written at a quarter of the size, beside two convolutions over the same picture.
"""

from torch import Tensor


def halved(x: Tensor) -> Tensor:
    """[N, H, W, C] -> [N, H // 2, W // 2, C]: the mean of every 2x2 pixels; an odd last row or
    column is left out. Summed in a fixed order, in float32 for 16-bit floats.
    """
    n, channels = len(x), x.shape[3]
    height, width = x.shape[1] // 2, x.shape[2] // 2
    x = x[:, : 2 * height, : 2 * width]
    pairs = x.reshape(n, height, 2, width, 2, channels)
    wide = pairs if x.dtype.itemsize > 2 else pairs.float()
    upper = wide[:, :, 0, :, 0] + wide[:, :, 0, :, 1]
    lower = wide[:, :, 1, :, 0] + wide[:, :, 1, :, 1]
    mean: Tensor = (upper + lower) * 0.25
    return mean.to(x.dtype)
