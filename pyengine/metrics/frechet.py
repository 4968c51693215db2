"""The Frechet distance of two sets of pictures (Heusel et al. 2017, arXiv:1706.08500)."""

import warnings
from typing import Literal

import torch
from torch import Tensor

from ..errors import RequestError
from .base import Features, SetMetric
from .moments import Moments

Shrinkage = float | Literal["oas"]


class FrechetDistance(SetMetric[Moments]):
    """The squared Frechet distance of two normal distributions fitted to features.

        |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

    Features are summed up in float64 in [D] and [D, D]: memory does not grow with the number of
    pictures, and what several machines have seen is joined by `merge_state`. With the weights that
    FID is defined over it equals torchmetrics' FrechetInceptionDistance.

    Covariances of fewer pictures than features are singular, and the distance then is too large by
    much: `compute` warns of it, and `report()` tells what was used.

    Args:
        features: a function of uint8 [N, 3, H, W] to [N, D]; InceptionV3 is one.
        shrinkage: the share of the identity in both covariances, 0 to 1, or "oas" for the estimate
            of Chen et al. 2010 of each; 0 is what others compute.
        reset_real_features: False keeps the real pictures at `reset`.
    """

    def __init__(
        self, features: Features, *, shrinkage: Shrinkage = 0.0, reset_real_features: bool = True
    ):
        numeric = isinstance(shrinkage, int | float) and not isinstance(shrinkage, bool)
        if shrinkage != "oas" and not (numeric and 0 <= shrinkage <= 1):
            raise RequestError(
                f'shrinkage: expected a number from 0 to 1, or "oas", given {shrinkage!r}'
            )
        self.shrinkage = shrinkage
        super().__init__(features, reset_real_features=reset_real_features)

    def _empty(self) -> Moments:
        return Moments()

    def _add(self, state: Moments, rows: Tensor) -> None:
        state.update(rows)

    def _join(self, state: Moments, other: Moments) -> None:
        state.merge(other)

    def compute(self) -> Tensor:
        """The distance, a float64 scalar.

        Raises RequestError with fewer than two pictures of a kind.
        """
        for name, state in (("real", self.real), ("generated", self.generated)):
            if state.count < 2:
                raise RequestError(f"images: expected two or more {name} ones, given {state.count}")
        few = [s.count for s in (self.real, self.generated) if s.count <= len(s.mean)]
        if few and self.shrinkage == 0:
            warnings.warn(
                f"FrechetDistance: {min(few)} pictures for {len(self.real.mean)} features give a"
                ' distance that is too large; take more, or shrinkage="oas"',
                stacklevel=2,
            )
        one, two = (s.covariance(self._share(s)) for s in (self.real, self.generated))
        return frechet_distance(self.real.mean, one, self.generated.mean, two)

    def report(self) -> dict[str, object]:
        """What it is over: pictures, features, their name, the shrinkage of each covariance."""
        return {
            "features": getattr(self.features, "name", type(self.features).__name__),
            "dimensions": len(self.real.mean),
            "real": self.real.count,
            "generated": self.generated.count,
            "shrinkage": [self._share(s) if s.count else None for s in (self.real, self.generated)],
        }

    def _share(self, state: Moments) -> float:
        return state.oracle_shrinkage() if self.shrinkage == "oas" else float(self.shrinkage)


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> Tensor:
    """|mean1 - mean2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2)).

    The trace of the root is that of (R cov2 R)^(1/2), with R the root of cov1: of a symmetric
    matrix, whose eigenvalues are real. In float64; those that rounding has made negative are 0.

    Args:
        mean1, mean2: means, [D].
        cov1, cov2: covariances, [D, D].

    Returns:
        A float64 scalar.
    """
    mean1, cov1, mean2, cov2 = (t.double() for t in (mean1, cov1, mean2, cov2))
    values, vectors = torch.linalg.eigh(cov1)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    inner = root @ cov2 @ root
    traced: Tensor = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp(min=0).sqrt().sum()
    return (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * traced
