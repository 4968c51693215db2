"""Likelihoods of pictures, in the unit that papers compare."""

import math

from torch import Tensor

from .checks import check_whole


def bits_per_dimension(log_likelihood: Tensor, dimensions: int, *, levels: int = 256) -> Tensor:
    """Bits that a model spends on each number of a picture, of a log-likelihood in nats [N].

    Args:
        log_likelihood: of the density over pictures scaled to a range of 1 (0..1 or -0.5..0.5),
            which were dequantised by uniform noise of one level: then -log2 p / dimensions + log2
            levels is an upper bound of the bits that the quantised picture takes (Theis et al.
            2016, arXiv:1511.01844).
        dimensions: numbers of a picture, such as 3 * 64 * 64.
        levels: values of a number.
    """
    check_whole("dimensions", dimensions, 1)
    check_whole("levels", levels, 2)
    return -log_likelihood / (math.log(2) * dimensions) + math.log2(levels)
