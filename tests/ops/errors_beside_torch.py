"""How far a kernel's results are from float64's, beside torch's own."""

import math
from dataclasses import dataclass

#: Draws of a case's inputs over which errors are taken where one draw exceeds the bound: of a few
#: numbers the largest error is luck, torch's too, whose chains of sums depend on the CPU.
DRAWS = 16


@dataclass(frozen=True)
class Errors:
    """Largest and root-sum-square errors of one result: ours, torch's, and rounding's."""

    largest: tuple[float, float, float]
    norms: tuple[float, float, float]
    spread: float
    """The exact result's standard deviation."""

    @classmethod
    def between(cls, got, own, exact):
        """Of our result, which is seen to be finite, and torch's."""
        exact = exact.double()  # indices are whole numbers
        off = [(y.double() - exact).abs() for y in (got, own, exact.to(got.dtype))]
        assert off[0].isfinite().all()
        largest, norms = zip(*((float(e.max()), float(e.norm())) for e in off), strict=True)
        return cls(largest, norms, float(exact.std()))

    @classmethod
    def of_all(cls, draws):
        """Over several draws."""
        largest, norms = (
            zip(*rows, strict=True)
            for rows in zip(*((one.largest, one.norms) for one in draws), strict=True)
        )
        spread = min(one.spread for one in draws)
        return cls(tuple(map(max, largest)), tuple(math.hypot(*n) for n in norms), spread)

    def within(self, declared):
        """Whether twice torch's error holds ours, or what is declared for Winograd's largest."""
        ours, torchs, rounding = self.largest
        if declared:
            return ours <= max(2 * max(torchs, rounding), rounding + declared * self.spread)
        return ours <= 2 * max(torchs, rounding) and self.norms[0] <= 2 * max(self.norms[1:])
