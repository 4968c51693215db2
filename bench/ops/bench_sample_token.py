"""sample_token against the chain of tensor functions that it replaces."""

import torch

from .contest import benchmark_op


def eager(logits, uniform, settings):
    """The first row's settings for all, as Python numbers, in transformers' order."""
    guidance, temperature, top_k, top_p, _ = settings[0].tolist()
    u, c = logits.chunk(2)
    scores = (u + guidance * (c - u)) / temperature
    kth = scores.topk(min(int(top_k), scores.shape[-1])).values[:, -1:]
    scores = scores.masked_fill(scores < kth, -torch.inf)
    ordered, order = scores.sort(dim=-1)
    low = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    low[:, -1] = False
    scores = scores.masked_fill(low.scatter(1, order, low), -torch.inf)
    sums = scores.softmax(dim=-1).double().cumsum(dim=-1)
    return torch.searchsorted(sums, uniform[:, None] * sums[:, -1:], right=True)[:, 0]


EAGER = {"sample_token": eager}
test_sample_token = benchmark_op("sample_token", eager)
