"""The codebook of a VQ-VAE in training: moving averages of what fell to each entry.

van den Oord et al. 2017, arXiv:1711.00937, appendix A.1.  Entries begin as the
k-means of the encoder's results, and one that nothing falls to any more begins
again where the error is large; without that most of a codebook dies early.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import parallel


class Codebook:
    """Entries [K, D] as sums / counts of the vectors that fell to them lately.

    decay: of sums and counts.  dead: an entry of a smaller count begins again.
    """

    def __init__(self, entries: int, width: int, decay: float, dead: float, device: str):
        import torch

        self.decay, self.dead = decay, dead
        self.counts = torch.zeros(entries, device=device)
        self.sums = torch.zeros(entries, width, device=device)

    @property
    def entries(self) -> Any:
        return self.sums / self.counts.clamp(min=1e-5)[:, None]

    def state(self) -> dict[str, Any]:
        return {"counts": self.counts, "sums": self.sums}

    def load(self, state: dict[str, Any]) -> None:
        self.counts.copy_(state["counts"])
        self.sums.copy_(state["sums"])

    def begin(self, vectors: Any, numbers: np.random.Generator, rounds: int = 10) -> None:
        """k-means of vectors [N, D], from N > K different ones of them."""
        import torch

        count = len(self.counts)
        rows = numbers.choice(len(vectors), count, replace=len(vectors) < count)
        entries = vectors[torch.from_numpy(rows)]
        for _ in range(rounds):
            codes, errors = nearest(vectors, entries)
            counts, sums = fallen(vectors, codes, count)
            entries = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), entries)
            empty = (counts == 0).nonzero()[:, 0]
            if len(empty):
                entries[empty] = vectors[draw(errors, len(empty), numbers)]
        self.counts.fill_(1.0)
        self.sums.copy_(entries)

    def update(self, vectors: Any, codes: Any) -> None:
        """Take in the vectors [N, D] of one step and the entries [N] that they fell to."""
        counts, sums = fallen(vectors, codes, len(self.counts))
        parallel.add_(counts, sums)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)

    def revive(self, vectors: Any, errors: Any, numbers: np.random.Generator) -> int:
        """Let dead entries begin again at vectors of large error; returns how many."""
        dead = (self.counts < self.dead).nonzero()[:, 0]
        if len(dead):
            new = vectors[draw(errors, len(dead), numbers)].clone()
            parallel.copy_first_(new)
            self.counts[dead], self.sums[dead] = 1.0, new
        return len(dead)

    def used(self) -> int:
        """How many entries are alive."""
        return int((self.counts >= self.dead).sum())

    def perplexity(self) -> float:
        """exp of the entropy of how often each entry is used: at most their number."""
        shares = self.counts / self.counts.sum().clamp(min=1e-9)
        return float((-(shares * shares.clamp(min=1e-12).log()).sum()).exp())


def nearest(vectors: Any, entries: Any) -> tuple[Any, Any]:
    """(codes [N], squared distances [N]) of the nearest entry to every vector."""
    squares = vectors.square().sum(1)
    table = entries.square().sum(1) - 2.0 * vectors @ entries.T
    least, codes = table.min(dim=1)
    return codes, (least + squares).clamp(min=0)


def fallen(vectors: Any, codes: Any, count: int) -> tuple[Any, Any]:
    """(how many vectors fell to each entry [K], their sums [K, D])."""
    counts, sums = vectors.new_zeros(count), vectors.new_zeros(count, vectors.shape[1])
    return counts.index_add_(0, codes, counts.new_ones(len(codes))), sums.index_add_(
        0, codes, vectors
    )


def draw(errors: Any, count: int, numbers: np.random.Generator) -> Any:
    """Rows drawn in proportion to their error."""
    import torch

    weights = errors.double().cpu().numpy() + 1e-12
    rows = numbers.choice(len(weights), count, p=weights / weights.sum())
    return torch.from_numpy(rows)
