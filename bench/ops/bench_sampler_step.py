"""sampler_step against guidance and a DPM++ 2M update in torch."""

from ..shapes import SAMPLER_ROW
from .contest import benchmark_op


def eager(x, out, coeffs, d1):
    """Coefficients as Python numbers, as a pipeline with one sampler for the batch has them.

    Returns (new x, D); the op writes a third tensor, and takes a row for every picture.
    """
    k = SAMPLER_ROW
    uncond, cond = out.chunk(2)
    m = uncond + k["g"] * (cond - uncond)
    d = k["p"] * x + k["q"] * m
    return k["x_x"] * x + k["x_d"] * d + k["x_d1"] * d1, d


EAGER = {"sampler_step": eager}
test_sampler_step = benchmark_op("sampler_step", eager)
