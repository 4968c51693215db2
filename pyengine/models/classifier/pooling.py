"""What classifiers do that no op does, in plain torch: means over whole pictures, ReLU."""

import torch
from torch import Tensor


def mean_of_pixels(x: Tensor) -> Tensor:
    """[N, H, W, C] -> [N, C]. Row by row and picture by picture, in a fixed order: the same bits
    in a batch as alone.
    """
    wide = x if x.dtype.itemsize > 2 else x.float()
    total = wide.new_zeros(len(x), x.shape[3])
    for row in wide.flatten(1, 2).unbind(1):
        total = total + row
    mean: Tensor = total / (x.shape[1] * x.shape[2])
    return mean.to(x.dtype)


def relu(x: Tensor) -> Tensor:
    return torch.clamp(x, min=0)
