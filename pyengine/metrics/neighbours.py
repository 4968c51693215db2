"""Metrics by nearest neighbours, which tell quality and variety apart."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .base import Features
from .checks import check_whole
from .sampled import CAPACITY, SampledMetric

#: Rows of one set whose distances to all of another are held at once.
BLOCK = 1024


class _NeighbourMetric(SampledMetric):
    def __init__(
        self,
        features: Features,
        *,
        k: int,
        capacity: int = CAPACITY,
        reset_real_features: bool = True,
    ):
        self.k = check_whole("k", k, 1)
        super().__init__(features, capacity=capacity, reset_real_features=reset_real_features)

    def _sets(self) -> tuple[Tensor, Tensor]:
        real, generated = self._samples(self.k + 1, "k neighbours of each")
        return real.double(), generated.double()


class Manifolds(NamedTuple):
    """precision: the share of generated pictures within the real ones' manifold; recall: that of
    real pictures within the generated ones'. Float64 scalars, 0 to 1.
    """

    precision: Tensor
    recall: Tensor


class PrecisionRecall(_NeighbourMetric):
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv:1904.06991).

    A set's manifold is the union of balls around its features, each as large as the distance to its
    own k-th neighbour in the set.

    Args:
        features: a function of uint8 [N, 3, H, W] to [N, D]; InceptionV3 is one.
        k: the neighbour whose distance is a ball's radius.
        capacity: features that are kept of each set; of more those whose bytes hash smallest.
        reset_real_features: False keeps the real pictures at `reset`.
    """

    def __init__(
        self,
        features: Features,
        *,
        k: int = 3,
        capacity: int = CAPACITY,
        reset_real_features: bool = True,
    ):
        super().__init__(features, k=k, capacity=capacity, reset_real_features=reset_real_features)

    def compute(self) -> Manifolds:
        """Precision and recall, float64 scalars."""
        real, generated = self._sets()
        return Manifolds(
            _covered(generated, real, radii(real, self.k)),
            _covered(real, generated, radii(generated, self.k)),
        )


class Densities(NamedTuple):
    """density: how many real pictures' balls a generated one lies in, over k (above 1 where the
    generated ones crowd); coverage: the share of real balls that hold a generated picture.
    """

    density: Tensor
    coverage: Tensor


class DensityCoverage(_NeighbourMetric):
    """Density and coverage (Naeem et al. 2020, arXiv:2002.09797).

    Unlike precision and recall they build no manifold of generated pictures, which outliers would
    blow up.

    Args:
        features: a function of uint8 [N, 3, H, W] to [N, D]; InceptionV3 is one.
        k: the neighbour whose distance is a ball's radius.
        capacity: features that are kept of each set; of more those whose bytes hash smallest.
        reset_real_features: False keeps the real pictures at `reset`.
    """

    def __init__(
        self,
        features: Features,
        *,
        k: int = 5,
        capacity: int = CAPACITY,
        reset_real_features: bool = True,
    ):
        super().__init__(features, k=k, capacity=capacity, reset_real_features=reset_real_features)

    def compute(self) -> Densities:
        """Density and coverage, float64 scalars."""
        real, generated = self._sets()
        sizes = radii(real, self.k)
        within = torch.zeros((), dtype=torch.float64)
        nearest = torch.full((len(real),), torch.inf, dtype=torch.float64)
        for _, distances in _blocks(generated, real):
            within += (distances < sizes).sum()
            nearest = torch.minimum(nearest, distances.amin(0))
        return Densities(within / (self.k * len(generated)), (nearest < sizes).double().mean())


def radii(rows: Tensor, k: int) -> Tensor:
    """[N]: each row's distance to its k-th nearest other one."""
    # The nearest of all is the row itself.
    return torch.cat([d.kthvalue(k + 1, dim=1).values for _, d in _blocks(rows, rows)])


def _covered(rows: Tensor, centres: Tensor, sizes: Tensor) -> Tensor:
    """The share of rows in any of the balls."""
    hits = [(d <= sizes).any(1) for _, d in _blocks(rows, centres)]
    return torch.cat(hits).double().mean()


def _blocks(rows: Tensor, others: Tensor) -> Iterator[tuple[int, Tensor]]:
    for begin in range(0, len(rows), BLOCK):
        yield (
            begin,
            torch.cdist(
                rows[begin : begin + BLOCK], others, compute_mode="donot_use_mm_for_euclid_dist"
            ),
        )
