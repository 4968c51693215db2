"""Where a run's random numbers come from, in the order in which diffusers draws them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..cuda import to_device


class NoiseSource:
    """Random numbers for a batch: standard normal, exponential or uniform ones.

    With a list of generators, one per picture, each picture draws its own [1, ...] from its own,
    so that it does not depend on its neighbours. With one generator for several pictures the whole
    batch is drawn from it at once.
    Numbers are drawn where the generator lives (the CPU, unless the caller brought another) and
    in the dtype that is asked for, since torch draws other numbers in another dtype.
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
        """Normal [N, ...] on the run's device. N is the number of pictures, unless the generator
        is shared, which gives any number.
        """
        return self._draw(
            shape, lambda s, g: torch.randn(s, generator=g, device=g.device, dtype=dtype)
        )

    def exponential(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Exponential [N, ...], in float32 as torch.multinomial draws them for one sample."""
        return self._draw(
            shape,
            lambda s, g: torch.empty(s, device=g.device, dtype=dtype).exponential_(generator=g),
        )

    def uniform(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Uniform [N, ...] in [0, 1)."""
        return self._draw(
            shape, lambda s, g: torch.rand(s, generator=g, device=g.device, dtype=dtype)
        )

    def states(self) -> list[Tensor]:
        """What `restore` takes to draw the same numbers again."""
        return [g.get_state() for g in self.generators]

    def restore(self, states: Sequence[Tensor]) -> None:
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)

    def _draw(self, shape: Sequence[int], make: Callable[..., Tensor]) -> Tensor:
        if self.shared:
            return to_device(make(tuple(shape), self.generators[0]), self.device)
        if shape[0] != len(self.generators):
            raise ValueError(f"noise: expected {len(self.generators)} pictures, given {shape[0]}")
        rows = [make((1, *shape[1:]), g) for g in self.generators]
        if len({row.device for row in rows}) > 1:
            rows = [to_device(row, self.device) for row in rows]
        return to_device(rows[0] if len(rows) == 1 else torch.cat(rows), self.device)


class PictureNoise:
    """The normal numbers of one picture's steps.

    A picture with a generator of its own draws from it. Where one generator serves all N pictures
    of a call, a step's numbers are drawn for all of them when the first of them asks, as diffusers
    draws them, and kept for the others.
    """

    def __init__(self, source: NoiseSource, picture: int, count: int, drawn: dict[int, Any]):
        """source: of the whole call; count: its pictures. drawn: what a shared generator has drawn,
        the same for all the pictures of the call.
        """
        self._shared = source.shared and count > 1
        own = source if source.shared else NoiseSource([source.generators[picture]], source.device)
        self._source, self._picture, self._count = own, picture, count
        self._drawn = drawn
        self._last: tuple[int, Tensor] | None = None

    @staticmethod
    def of_call(source: NoiseSource, count: int) -> list["PictureNoise"]:
        """For each of a call's pictures."""
        drawn: dict[int, Any] = {}
        return [PictureNoise(source, i, count, drawn) for i in range(count)]

    @property
    def generator(self) -> torch.Generator | None:
        """The picture's own; None where it shares one."""
        return None if self._shared else self._source.generators[0]

    def draw(self, position: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """[1, *shape] for the step at `position` of the picture's plan; the same again where that
        step is taken again, since memory did not suffice.
        """
        if self._last is None or self._last[0] != position:
            self._last = position, self._draw(position, shape, dtype)
        return self._last[1]

    def has(self, position: int) -> bool:
        """Whether the numbers for that step are drawn already."""
        return self._last is not None and self._last[0] == position

    def keep(self, position: int, numbers: Tensor) -> None:
        """Takes note of numbers for that step that were drawn from `generator`."""
        self._last = position, numbers

    def _draw(self, position: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        if not self._shared:
            return self._source.draw((1, *shape), dtype)
        if position not in self._drawn:
            whole = self._source.draw((self._count, *shape), dtype)
            self._drawn[position] = [whole, set(range(self._count))]
        whole, waiting = self._drawn[position]
        waiting.discard(self._picture)
        if not waiting:
            del self._drawn[position]
        row: Tensor = whole[self._picture : self._picture + 1]
        return row
