"""The kernel distance of two sets of pictures (KID; Binkowski et al. 2018, arXiv:1801.01401)."""

import torch
from torch import Tensor

from ..errors import RequestError
from .base import Features
from .checks import check_whole
from .sampled import CAPACITY, SampledMetric


class KernelDistance(SampledMetric):
    """The unbiased squared maximum mean discrepancy under a polynomial kernel: mean of subsets.

    k(x, y) = (gamma x.y + coef)^degree. Arguments and result are those of torchmetrics'
    KernelInceptionDistance: with the same features, and torch seeded the same, the subsets are the
    same.

    Args:
        features: a function of uint8 [N, 3, H, W] to [N, D]; InceptionV3 is one.
        subsets: how many are drawn.
        subset_size: pictures in each, two at least and no more than were seen.
        degree, gamma, coef: of the kernel; gamma None: 1 / D.
        seed: for subsets from a generator of the metric's own, the same at every `compute`; None:
            from torch's.
        capacity: features that are kept of each set; of more those whose bytes hash smallest.
        reset_real_features: False keeps the real pictures at `reset`.
    """

    def __init__(
        self,
        features: Features,
        *,
        subsets: int = 100,
        subset_size: int = 1000,
        degree: int = 3,
        gamma: float | None = None,
        coef: float = 1.0,
        seed: int | None = None,
        capacity: int = CAPACITY,
        reset_real_features: bool = True,
    ):
        self.subsets = check_whole("subsets", subsets, 1)
        self.subset_size = check_whole("subset_size", subset_size, 2)
        self.degree = check_whole("degree", degree, 1)
        for name, value in (("gamma", gamma), ("coef", coef)):
            if value is not None and not float(value) > 0:
                raise RequestError(f"{name}: expected a number above 0, given {value!r}")
        self.gamma, self.coef = gamma, coef
        self.seed = None if seed is None else check_whole("seed", seed, 0)
        super().__init__(features, capacity=capacity, reset_real_features=reset_real_features)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation over the subsets, float64 scalars."""
        real, generated = self._samples(self.subset_size, "subset_size")
        generator = None if self.seed is None else torch.Generator().manual_seed(self.seed)
        found = torch.stack([self._subset(real, generated, generator) for _ in range(self.subsets)])
        return found.mean(), found.std(unbiased=False)

    def _subset(self, real: Tensor, generated: Tensor, generator: torch.Generator | None) -> Tensor:
        x, y = (
            rows[torch.randperm(len(rows), generator=generator)[: self.subset_size]]
            for rows in (real, generated)
        )
        return polynomial_mmd(x, y, self.degree, self.gamma, self.coef)


def polynomial_mmd(
    x: Tensor, y: Tensor, degree: int = 3, gamma: float | None = None, coef: float = 1.0
) -> Tensor:
    """The unbiased estimate of the squared maximum mean discrepancy of x and y.

    The means of the kernel within each, a row with itself left out, less twice the mean between. In
    float64.

    Args:
        x, y: [N, D] each, of two rows at least.
        degree, gamma, coef: of the kernel (gamma x.y + coef)^degree; gamma None: 1 / D.

    Returns:
        A float64 scalar.
    """
    x, y = x.double(), y.double()
    gamma = 1 / x.shape[1] if gamma is None else gamma

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (gamma * (a @ b.T) + coef) ** degree

    def within(a: Tensor) -> Tensor:
        k = kernel(a, a)
        return (k.sum() - k.trace()) / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2 * kernel(x, y).mean()
