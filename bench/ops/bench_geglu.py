"""geglu against torch's chunk, GELU and product."""

import torch.nn.functional as F

from .contest import benchmark_op


def eager(x):
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


EAGER = {"geglu": eager}
test_geglu = benchmark_op("geglu", eager)
