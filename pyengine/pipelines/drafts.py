"""Guesses of what a picture's next tokens are, from pictures that are known beforehand.

A model that has learnt pictures draws what looks like one of them: the one that agrees best with
what is drawn already tells what may come. Guesses are only looked at by Jacobi decoding, which
draws the same tokens whatever they are; see jacobi.py. Retrieval in place of a second model:
He et al. 2023, arXiv:2311.08252.
"""

import torch
from torch import Tensor

#: How much more the tokens count that were drawn last, and how many these are.
RECENT, WEIGHT = 4, 4


def recall(drafts: Tensor, tokens: Tensor, known: Tensor) -> Tensor:
    """[n, length]: of each picture the draft that agrees best with its first `known` tokens, the
    first of those that agree as well.

    drafts: [M, length]; tokens: [n, length], of which the first known [n] count.
    """
    places = torch.arange(drafts.shape[1], device=tokens.device)
    behind = known[:, None] - places  # 1 for the last that is known
    weights = (behind > 0) * (1 + (WEIGHT - 1) * (behind <= RECENT))
    agree = tokens[:, None] == drafts
    scores = (agree * weights[:, None]).sum(dim=-1)
    order = torch.arange(len(drafts), 0, -1, device=tokens.device)
    return drafts[(scores * len(drafts) + order).argmax(dim=-1)]
