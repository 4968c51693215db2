"""What the metrics over two sets of pictures share: their features, taken in and forgotten."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor

from ..errors import RequestError
from .checks import check_images, check_real, check_rows

if TYPE_CHECKING:
    from typing_extensions import Self

#: uint8 [N, 3, H, W] -> floating-point [N, D]
Features = Callable[[Tensor], Tensor]
State = TypeVar("State")


class SetMetric(ABC, Generic[State]):
    """A metric of generated pictures against real ones, each set kept as a State.

    Args:
        features: a function of uint8 [N, 3, H, W] to [N, D]; InceptionV3 is one.
        reset_real_features: False keeps the real pictures at `reset`.
    """

    def __init__(self, features: Features, *, reset_real_features: bool = True):
        if not callable(features):
            raise RequestError(
                "features: expected a function of uint8 [N, 3, H, W] to [N, D], such as"
                f" InceptionV3(file), given {type(features).__name__}"
            )
        self.features = features
        self.reset_real_features = reset_real_features
        self.real: State = self._empty()
        self.generated: State = self._empty()

    @abstractmethod
    def _empty(self) -> State: ...

    @abstractmethod
    def _add(self, state: State, rows: Tensor) -> None: ...

    @abstractmethod
    def _join(self, state: State, other: State) -> None: ...

    @abstractmethod
    def compute(self) -> Any:
        """The metric of what was taken in."""

    def update(self, images: Any, real: bool) -> None:
        """Takes pictures in.

        Args:
            images: uint8 [N, 3, H, W].
            real: whether they are of the real ones.
        """
        check_real(real)
        images = check_images(images)
        with torch.inference_mode():
            rows = self.features(images)
        self.update_features(rows, real)

    def update_features(self, rows: Tensor, real: bool) -> None:
        """Takes in what the feature network said of pictures.

        Args:
            rows: [N, D], finite.
            real: whether they are of the real ones.
        """
        check_real(real)
        self._add(self.real if real else self.generated, check_rows("features", rows))

    def reset(self) -> None:
        """Forgets the generated pictures, and the real ones unless reset_real_features is False."""
        self.generated = self._empty()
        if self.reset_real_features:
            self.real = self._empty()

    def merge_state(self, other: "Self") -> None:
        """Takes in what the `other` metric, of the same kind, has seen, perhaps elsewhere."""
        if type(other) is not type(self):
            raise RequestError(
                f"other: expected a {type(self).__name__}, given {type(other).__name__}"
            )
        self._join(self.real, other.real)
        self._join(self.generated, other.generated)
