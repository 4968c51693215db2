"""linear against torch's."""

import torch.nn.functional as F

from .contest import benchmark_op


def eager(x, weight, bias):
    return F.linear(x, weight, bias)


EAGER = {"linear": eager}
test_linear = benchmark_op("linear", eager)
