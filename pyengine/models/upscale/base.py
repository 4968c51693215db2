"""What upscalers share."""

from torch import Tensor

from ...errors import RequestError
from ...guard import inference
from ..base import Model, to_nchw
from .pixels import padded


class Upscaler(Model):
    """Pictures [N, 3, H, W] in 0..1 to [N, 3, H * scale, W * scale], about 0..1.

    A subclass has `scale`, `multiple`, `reach` and `_enlarge`.
    """

    @property
    def scale(self) -> int:
        """Pixels of the result for each pixel, along each side."""
        raise NotImplementedError

    @property
    def multiple(self) -> int:
        """What the sides that the network itself reads are multiples of."""
        return 1

    @property
    def reach(self) -> int:
        """Pixels to each side that a pixel of the result can depend on."""
        raise NotImplementedError

    def _enlarge(self, x: Tensor) -> Tensor:
        """[N, H, W, 3] -> [N, H * scale, W * scale, 3]; both sides are multiples of `multiple`."""
        raise NotImplementedError

    @inference
    def forward(self, x: Tensor) -> Tensor:
        """x: [N, 3, H, W] in 0..1 -> [N, 3, H * scale, W * scale].

        Raises RequestError for another shape.
        """
        if x.dim() != 4 or x.shape[1] != 3 or not x.numel():
            raise RequestError(f"x: expected [N, 3, H, W], given {list(x.shape)}")
        height, width = x.shape[2] * self.scale, x.shape[3] * self.scale
        x = padded(x.to(self.device, self.dtype), self.multiple)
        x = x.permute(0, 2, 3, 1).contiguous()
        with self.arena.use():
            return to_nchw(self._enlarge(x)[:, :height, :width])
