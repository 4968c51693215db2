"""Specification of mask_refine: one step of masked generation.

Chang et al. 2022, arXiv:2202.04200 (MaskGIT); the rule is that of aMUSEd's scheduler, Patil et al.
2024, arXiv:2401.01808.
"""

import torch
from torch import Tensor

from .sample_token import _guided, refuse

_TINY = 1e-20  # keeps the logarithms finite, as in aMUSEd


def mask_refine(
    logits: Tensor,
    tokens: Tensor,
    noise: Tensor,
    gumbel: Tensor,
    masked: Tensor,
    temperature: Tensor,
    mask_token: int,
    guidance: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws a token for every masked place, then masks the least certain again.

    logits: [N, L, V], or [2 N, L, V] with the N unconditional pictures first; then u + guidance
    (c - u) counts, guidance [N].  Minus infinity masks a token.
    tokens: [N, L] int64; those equal to mask_token are unknown, the others stay as they are.
    noise: [N, L] in [0, 1), for draws as sample_token's; or [N, L, V] from the exponential
    distribution: the largest probability / noise wins, as in torch.multinomial.
    gumbel: [N, L] in [0, 1).  masked: [N] int64, how many to mask again, 0 for none.
    temperature: [N].
    A place's confidence is log p + temperature g: p is its token's probability and g =
    -log(-log(gumbel)) Gumbel noise; gumbel, the inner logarithm and p are raised to 1e-20.  With
    m = max(1, min(unknown - 1, masked)) those are masked again that are less certain than the
    m-th, counted from 0 in rising order: m of them, fewer where some are equally certain.
    Returns (next tokens, predicted tokens), each [N, L]: with and without masks.  In float64.
    Raises RequestError, naming the row of [N L], for logits that are NaN or plus infinity or all
    minus infinity, and for noise or gumbel out of range.
    """
    n, length = tokens.shape
    unknown = tokens == mask_token
    factor = torch.ones(n) if guidance is None else guidance
    factor = factor.to(logits.device).double().repeat_interleave(length)
    scores, faulty = _guided(logits.double().reshape(-1, logits.shape[-1]), factor, n * length)
    rows = unknown.reshape(-1)
    op = "mask_refine"
    refuse("logits", "numbers below infinity", faulty & rows, op)
    refuse("logits", "a token that is not masked", (scores == -torch.inf).all(-1) & rows, op)
    out_of_range = ~((gumbel >= 0) & (gumbel < 1)).reshape(-1)
    race = noise.dim() == 3
    flat = noise.double().reshape(scores.shape if race else -1)
    if not race:
        out_of_range |= ~((flat >= 0) & (flat < 1))
    refuse("noise and gumbel", "numbers from 0 to below 1", out_of_range & rows, op)

    probabilities = scores.softmax(dim=-1)
    if race:
        drawn = (probabilities / flat).argmax(dim=-1)
    else:
        sums = probabilities.cumsum(dim=-1)
        passed = (sums > flat[:, None] * sums[:, -1:]) & (probabilities > 0)
        drawn = passed.to(torch.uint8).argmax(dim=-1)
    certain = probabilities.gather(-1, drawn[:, None]).view(n, length)
    predicted = torch.where(unknown, drawn.view(n, length), tokens)

    g = -(-gumbel.double().clamp(min=_TINY).log()).clamp(min=_TINY).log()
    confidence = certain.clamp(min=_TINY).log() + temperature.double()[:, None] * g
    confidence = torch.where(unknown, confidence, torch.inf)
    count = torch.minimum(unknown.sum(dim=-1) - 1, masked).clamp(min=1, max=length)
    # One more place, known, in case all are to be masked.
    ordered = torch.cat([confidence.sort(dim=-1).values, confidence.new_full((n, 1), torch.inf)], 1)
    cut = ordered.gather(-1, count[:, None])
    again = (confidence < cut) & (masked > 0)[:, None]
    return torch.where(again, mask_token, predicted), predicted
