"""Transposed convolution of stride 2 by ordinary convolutions, and what no op does after them.

With a 4x4 kernel, stride 2 and padding 1, output row 2m is the sum of the input's rows m-1 and m
times the kernel's rows 3 and 1, and output row 2m+1 that of rows m and m+1 times rows 2 and 0;
columns alike. Those are four convolutions with 2x2 kernels, a phase (a, b) each, whose results are
interleaved (plain torch: it only moves numbers). No product is with a zero that was put between
pixels.

With few channels, as of a picture, the four are one convolution over windows that are common to
all, of which output row 2m+a takes window m+a: a panel of weights holds 16 channels, whether they
are asked for or not.
"""

import torch
from torch import Tensor, nn

from ... import ops
from ...ops._pack import PANEL, arranged_filters, ohwi

#: The kernel's side, and how much longer the output's sides are.
KERNEL, STRIDE = 4, 2
PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))
#: Rows of the kernel for output rows 2m and 2m + 1.
_TAPS = ((3, 1), (2, 0))


class TransposedConv2d(nn.Module):
    """A transposed convolution of [N, H, W, C] pictures to [N, 2H, 2W, out_channels].

    Kernel 4, stride 2, padding 1: torch.nn.ConvTranspose2d's, as DCGAN has it. The weight is saved
    as [in, out, 4, 4].
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.channels = out_channels
        shape = in_channels, out_channels, KERNEL, KERNEL
        self.weight: nn.Parameter | None = nn.Parameter(
            torch.empty(shape, device="meta"), requires_grad=False
        )
        self.bias = nn.Parameter(torch.empty(out_channels, device="meta"), requires_grad=False)
        #: Once packed: of each phase, or of all four in one.
        self.phases = nn.ParameterList()

    @property
    def together(self) -> bool:
        """Whether all phases are one convolution."""
        return len(PHASES) * self.channels <= PANEL

    def pack(self) -> None:
        if self.weight is not None:
            self.phases = nn.ParameterList(
                nn.Parameter(arranged_filters(w), requires_grad=False) for w in self._of_phases()
            )
            self.weight = None

    def _of_phases(self) -> list[Tensor]:
        """[out, in, 2, 2] of each phase; one [4 * out, in, 2, 2] where they are together."""
        assert self.weight is not None  # until it is packed
        weight = self.weight.detach().transpose(0, 1)
        rows = [weight[:, :, list(_TAPS[a])][:, :, :, list(_TAPS[b])] for a, b in PHASES]
        rows = [torch.cat(rows)] if self.together else rows
        return [row.contiguous() for row in rows]

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """relu: max(y, 0) of the result."""
        weights = [*self.phases] if self.weight is None else [ohwi(w) for w in self._of_phases()]
        n, height, width = x.shape[:3]
        out = x.new_empty(n, height, STRIDE, width, STRIDE, self.channels)
        slopes = torch.zeros(self.channels, device=x.device) if relu else None
        if self.together:
            each = None if slopes is None else slopes.repeat(len(PHASES))
            bias = self.bias.repeat(len(PHASES))
            y = ops.conv2d(x, weights[0], bias, padding=(1, 1, 1, 1), slopes=each)
            y = y.view(n, height + 1, width + 1, STRIDE, STRIDE, self.channels)
            for a, b in PHASES:
                out[:, :, a, :, b] = y[:, a : a + height, b : b + width, a, b]
        else:
            for (a, b), weight in zip(PHASES, weights, strict=True):
                padding = 1 - a, a, 1 - b, b
                made = ops.conv2d(x, weight, self.bias, padding=padding, slopes=slopes)
                out[:, :, a, :, b] = made
        return out.view(n, STRIDE * height, STRIDE * width, self.channels)
