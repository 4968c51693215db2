"""Random numbers by position: the token at a position is a function of its logits and of these."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..jobs.noise import NoiseSource


class Numbers:
    """The numbers of one picture, or of all pictures that share a generator, for each position.

    They are drawn in the order of the positions and kept until nobody needs them. With a generator
    that is shared, a position's numbers are drawn for all its pictures at once, whoever asks first,
    so that they do not depend on who does.
    """

    def __init__(
        self,
        generators: Sequence[torch.Generator] | torch.Generator,
        count: int,
        begin: int,
        device: torch.device,
    ):
        """count: pictures; begin: the first position that is drawn."""
        self._source = NoiseSource(generators, device)
        self._count, self._device = count, device
        self._begin = self._first = begin
        self._kept = [begin] * count
        self._drawn: list[Tensor] = []

    def at(self, row: int, position: int) -> Tensor:
        """The numbers of picture `row` at a position that `forget` has not passed."""
        while self._first + len(self._drawn) <= position:
            self._drawn.append(self._draw())
        found = self._drawn[position - self._first]
        return found if self._count == 1 else found[row : row + 1]

    def forget(self, row: int, position: int) -> None:
        """Picture `row` needs no numbers before this position any more."""
        self._kept[row] = position
        first = min(*self._kept, self._first + len(self._drawn))
        if first > self._first:
            del self._drawn[: first - self._first]
            self._first = first

    def _draw(self) -> Tensor:
        """[count, ...] of the next position."""
        raise NotImplementedError


class Uniform(Numbers):
    """One number for each position, for the inverse CDF: see ops.sample_token. [1] float64, on the
    host.
    """

    #: Positions between two states of the generators that are kept for `finish`.
    MARKS = 64

    def __init__(
        self,
        generators: Sequence[torch.Generator] | torch.Generator,
        count: int,
        begin: int,
        device: torch.device,
        marked: bool = False,
    ):
        """marked: whether `finish` will be told of pictures that end early."""
        super().__init__(generators, count, begin, device)
        self._marks: list[tuple[int, list[Tensor]]] | None = [] if marked else None
        self._ends: list[int | None] = [None] * count

    def _draw(self) -> Tensor:
        position = self._first + len(self._drawn)
        if self._marks is not None and (position - self._begin) % self.MARKS == 0:
            self._marks.append((position, self._source.states()))
        return self._uniform()

    def _uniform(self) -> Tensor:
        return self._source.uniform((self._count,), torch.float64).cpu()

    def finish(self, row: int, position: int) -> None:
        """Picture `row` ended before this position. When all have, numbers that were drawn for
        tokens that no picture has are put back: a caller's generators go on as without them.
        """
        self._ends[row] = position
        ends = [end for end in self._ends if end is not None]
        if not self._marks or len(ends) < self._count:
            return
        last = max(ends)
        while len(self._marks) > 1 and self._marks[-1][0] > last:
            self._marks.pop()
        begin, states = self._marks[-1]
        if last < self._first + len(self._drawn):
            self._source.restore(states)
            for _ in range(begin, last):
                self._uniform()
            self._marks = None


class Gumbel(Numbers):
    """One number for each position and token, for Gumbel-max: the token is where the logarithm of
    its weight and the number have the largest sum, which has the distribution of the weights.

    Of two distributions that are d apart (total variation) the same numbers draw the same token
    with probability (1 - d) / (1 + d) or more (Daliri et al. 2024, arXiv:2408.07978), however many
    tokens there are; one number of Uniform does so less often the more tokens are likely.
    [1, vocab_size] float32, on the run's device.
    """

    def __init__(
        self,
        generators: Sequence[torch.Generator] | torch.Generator,
        count: int,
        begin: int,
        device: torch.device,
        vocab_size: int,
    ):
        super().__init__(generators, count, begin, device)
        self._shape = count, vocab_size

    def _draw(self) -> Tensor:
        waiting = self._source.exponential(self._shape, torch.float64).cpu()
        # NumPy's logarithm: torch's bits depend on how threads divide the rows.
        rows = [-np.log(np.maximum(row.numpy(), 1e-300)) for row in waiting]
        return torch.from_numpy(np.stack(rows)).float().to(self._device)
