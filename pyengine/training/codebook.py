"""The codebook of a VQ-VAE in training: moving averages of the vectors assigned to each entry.

van den Oord et al. 2017, arXiv:1711.00937, appendix A.1.  Entries begin as the
k-means of the encoder's results.  Unused entries are restarted at vectors of
large error; without that most of a codebook falls out of use early.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import parallel


class Codebook:
    """Entries [K, D]: moving sums of the vectors assigned to each, over moving counts.

    decay: of sums and counts.  dead: entries of a smaller count are restarted.
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
            counts, sums = assigned(vectors, codes, count)
            entries = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), entries)
            empty = (counts == 0).nonzero()[:, 0]
            if len(empty):
                entries[empty] = vectors[sample_rows(errors, len(empty), numbers)]
        self.counts.fill_(1.0)
        self.sums.copy_(entries)

    def update(self, vectors: Any, codes: Any) -> None:
        """Update sums and counts by one step's vectors [N, D] and their entries `codes` [N]."""
        counts, sums = assigned(vectors, codes, len(self.counts))
        parallel.add_(counts, sums)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)

    def revive(self, vectors: Any, errors: Any, numbers: np.random.Generator) -> int:
        """Restart entries of a count below `dead` at vectors of large error; returns how many."""
        dead = (self.counts < self.dead).nonzero()[:, 0]
        if len(dead):
            new = vectors[sample_rows(errors, len(dead), numbers)].clone()
            parallel.copy_first_(new)
            self.counts[dead], self.sums[dead] = 1.0, new
        return len(dead)

    def used(self) -> int:
        """How many entries have a count of at least `dead`."""
        return int((self.counts >= self.dead).sum())

    def perplexity(self) -> float:
        """exp of the entropy of the entries' shares; at most their number."""
        shares = self.counts / self.counts.sum().clamp(min=1e-9)
        return float((-(shares * shares.clamp(min=1e-12).log()).sum()).exp())


def nearest(vectors: Any, entries: Any) -> tuple[Any, Any]:
    """(codes [N], squared distances [N]) of the nearest entry to every vector."""
    squares = vectors.square().sum(1)
    table = entries.square().sum(1) - 2.0 * vectors @ entries.T
    least, codes = table.min(dim=1)
    return codes, (least + squares).clamp(min=0)


def assigned(vectors: Any, codes: Any, count: int) -> tuple[Any, Any]:
    """(number of vectors assigned to each entry [K], their sums [K, D])."""
    counts, sums = vectors.new_zeros(count), vectors.new_zeros(count, vectors.shape[1])
    return counts.index_add_(0, codes, counts.new_ones(len(codes))), sums.index_add_(
        0, codes, vectors
    )


def sample_rows(errors: Any, count: int, numbers: np.random.Generator) -> Any:
    """Rows sampled in proportion to their error."""
    import torch

    weights = errors.double().cpu().numpy() + 1e-12
    rows = numbers.choice(len(weights), count, p=weights / weights.sum())
    return torch.from_numpy(rows)
