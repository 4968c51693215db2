"""Guesses of what a picture's next tokens are, from pictures that are known beforehand.

A model that has learnt pictures draws what looks like one of them: the one that agrees best with
what is drawn already tells what may come. Guesses are only looked at by Jacobi decoding, which
draws the same tokens whatever they are; see jacobi.py. Retrieval in place of a second model:
He et al. 2023, arXiv:2311.08252.
"""

import torch
from torch import Tensor


def recall(drafts: Tensor, tokens: Tensor, known: Tensor) -> Tensor:
    """[n, length]: of each picture the draft that agrees with most of its first `known` tokens, the
    first of those that agree with as many.

    drafts: [M, length]; tokens: [n, length], of which the first known [n] count.
    """
    order, best = torch.arange(len(drafts), 0, -1, device=tokens.device), []
    for row, count in zip(tokens, known.tolist(), strict=True):
        scores = (drafts[:, :count] == row[:count]).sum(dim=1)
        best.append((scores * len(drafts) + order).argmax())
    return drafts[torch.stack(best)]
