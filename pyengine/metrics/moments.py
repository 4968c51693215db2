"""Mean and covariance of a stream of vectors, in memory that does not grow with it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import RequestError
from .checks import check_rows


@dataclass
class Moments:
    """Count, mean [D] and scatter [D, D] (the sum of outer products of deviations) in float64.

    Batches and streams are joined by the pairwise update of Chan, Golub and LeVeque 1983, which
    does not cancel where the mean is large beside the deviations, as sums of squares would.
    """

    count: int = 0
    mean: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    scatter: Tensor = field(default_factory=lambda: torch.empty(0, 0, dtype=torch.float64))

    def update(self, rows: Tensor) -> None:
        """Takes rows [N, D] of finite numbers in."""
        rows = check_rows("rows", rows).double()
        if not len(rows):
            return
        mean = rows.mean(0)
        deviations = rows - mean
        self.merge(Moments(len(rows), mean, deviations.T @ deviations))

    def merge(self, other: "Moments") -> None:
        """Takes in what the `other` has seen."""
        if not other.count:
            return
        if not self.count:
            self.count = other.count
            self.mean, self.scatter = other.mean.clone(), other.scatter.clone()
            return
        if len(self.mean) != len(other.mean):
            raise RequestError(
                f"rows: expected {len(self.mean)} features as before, given {len(other.mean)}"
            )
        total = self.count + other.count
        delta = other.mean - self.mean
        self.mean = self.mean + delta * (other.count / total)
        between = torch.outer(delta, delta) * (self.count * other.count / total)
        self.scatter = self.scatter + other.scatter + between
        self.count = total

    def covariance(self, shrinkage: float = 0.0) -> Tensor:
        """[D, D], unbiased (N - 1). shrinkage: the share, 0 to 1, of the identity times the mean
        variance in it, for samples too small for their number of features.
        """
        if self.count < 2:
            raise RequestError(f"rows: expected two or more for a covariance, given {self.count}")
        found = self.scatter / (self.count - 1)
        if shrinkage:
            even = torch.eye(len(found), dtype=found.dtype) * (found.trace() / len(found))
            found = (1 - shrinkage) * found + shrinkage * even
        return found

    def oracle_shrinkage(self) -> float:
        """The share of the identity that is best for a normal distribution, by the oracle
        approximating estimate (Chen, Wiesel, Eldar and Hero 2010, equation 23).
        """
        p, n = len(self.mean), self.count
        biased = self.scatter / n
        square, trace = float((biased * biased).sum()), float(biased.trace())
        above = (1 - 2 / p) * square + trace**2
        below = (n + 1 - 2 / p) * (square - trace**2 / p)
        return 1.0 if below <= 0 else min(1.0, above / below)
