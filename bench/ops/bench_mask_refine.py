"""mask_refine against the chain of tensor functions that it replaces."""

import torch

from .contest import benchmark_op


def eager(logits, tokens, noise, gumbel, masked, temperature, mask_token):
    unknown = tokens == mask_token
    p = logits.softmax(dim=-1)
    sums = p.double().cumsum(dim=-1)
    target = noise.double()[..., None] * sums[..., -1:]
    drawn = torch.searchsorted(sums, target, right=True)[..., 0]
    predicted = torch.where(unknown, drawn, tokens)
    certain = p.gather(-1, predicted[..., None])[..., 0]
    noise = -(-gumbel.clamp(1e-20).log()).clamp(1e-20).log()
    confidence = certain.clamp(1e-20).log() + temperature[:, None] * noise
    confidence = torch.where(unknown, confidence, torch.inf)
    count = torch.minimum(unknown.sum(dim=-1) - 1, masked).clamp(min=1)
    cut = confidence.sort(dim=-1).values.gather(-1, count[:, None])
    return torch.where(confidence < cut, mask_token, predicted), predicted


EAGER = {"mask_refine": eager}
test_mask_refine = benchmark_op("mask_refine", eager)
