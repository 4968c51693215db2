"""Metrics that need the features themselves: of a bounded sample of each set."""

from torch import Tensor

from ..errors import RequestError
from .base import Features, SetMetric
from .checks import check_whole
from .reservoir import Reservoir

#: 50,000 pictures are what published figures are over; 400 MB of 2,048 features.
CAPACITY = 50_000


class SampledMetric(SetMetric[Reservoir]):
    """capacity: pictures of each set whose features are kept; of more, a sample of them."""

    def __init__(
        self, features: Features, *, capacity: int = CAPACITY, reset_real_features: bool = True
    ):
        self.capacity = check_whole("capacity", capacity, 2)
        super().__init__(features, reset_real_features=reset_real_features)

    def _empty(self) -> Reservoir:
        return Reservoir(self.capacity)

    def _add(self, state: Reservoir, rows: Tensor) -> None:
        state.update(rows)

    def _join(self, state: Reservoir, other: Reservoir) -> None:
        state.merge(other)

    def _samples(self, least: int, why: str) -> tuple[Tensor, Tensor]:
        """Features of real and generated pictures, at least `least` of each."""
        real, generated = self.real.rows(), self.generated.rows()
        for name, rows in (("real", real), ("generated", generated)):
            if len(rows) < least:
                raise RequestError(
                    f"images: expected {least} or more {name} ones ({why}), given {len(rows)}"
                )
        return real, generated
