"""Where a run's random numbers come from, in the order in which diffusers draws them."""

from collections.abc import Sequence

import torch
from torch import Tensor


class NoiseSource:
    """Standard normal numbers for a batch.

    With a list of generators, one per picture, each picture draws its own [1, ...] from its own,
    so that it does not depend on its neighbours. With one generator for several pictures the whole
    batch is drawn from it at once.
    Numbers are drawn where the generator lives (the CPU, unless the caller brought another) and
    in the models' dtype, since torch draws other numbers in another dtype.
    """

    def __init__(
        self, generators: Sequence[torch.Generator] | torch.Generator, device: torch.device
    ):
        if isinstance(generators, torch.Generator):
            self.shared, self.generators = True, [generators]
        else:
            self.shared, self.generators = False, list(generators)
        self.device = device

    def draw(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """[N, ...] on the run's device. N is the number of pictures, unless the generator is
        shared, which gives any number.
        """
        if self.shared:
            return self._draw(shape, self.generators[0], dtype)
        if shape[0] != len(self.generators):
            raise ValueError(f"noise: expected {len(self.generators)} pictures, given {shape[0]}")
        rows = [self._draw((1, *shape[1:]), g, dtype) for g in self.generators]
        return torch.cat(rows)

    def _draw(self, shape, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        noise = torch.randn(tuple(shape), generator=generator, device=generator.device, dtype=dtype)
        return noise.to(self.device)
