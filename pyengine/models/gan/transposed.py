"""Transposed convolution of stride 2.

With a 4x4 kernel, stride 2 and padding 1, output row 2m is the sum of the input's rows m-1 and m
times the kernel's rows 3 and 1, and output row 2m+1 that of rows m and m+1 times rows 2 and 0;
columns alike. Those are four convolutions with 2x2 kernels, a phase (a, b) each: conv2d's kernel
computes them so, and no product is with a zero that was put between pixels.

With few channels, as of a picture, the four are one ordinary convolution over windows that are
common to all, of which output row 2m+a takes window m+a: a panel of weights holds 16 channels,
whether they are asked for or not. Its results are interleaved by plain torch, which moves them.
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
        #: Once packed; where the phases are one convolution, its weight.
        self.packed: nn.Parameter | None = None

    @property
    def together(self) -> bool:
        """Whether all phases are one convolution."""
        return len(PHASES) * self.channels <= PANEL

    def pack(self) -> None:
        if self.weight is not None:
            arranged = arranged_filters(self._filters())
            self.packed = nn.Parameter(arranged, requires_grad=False)
            self.weight = None

    def _filters(self) -> Tensor:
        """[out, in, 4, 4]; [4 * out, in, 2, 2] where the phases are together."""
        assert self.weight is not None  # until it is packed
        weight = self.weight.detach().transpose(0, 1)
        if not self.together:
            return weight.contiguous()
        return torch.cat([weight[:, :, list(_TAPS[a])][:, :, :, list(_TAPS[b])] for a, b in PHASES])

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """relu: max(y, 0) of the result."""
        weight = ohwi(self._filters()) if self.packed is None else self.packed
        slopes = torch.zeros(self.channels, device=x.device) if relu else None
        if not self.together:
            return ops.conv2d(
                x, weight, self.bias, stride=STRIDE, padding=(1, 1, 1, 1), slopes=slopes,
                transposed=True,
            )  # fmt: skip
        n, height, width = x.shape[:3]
        out = x.new_empty(n, height, STRIDE, width, STRIDE, self.channels)
        each = None if slopes is None else slopes.repeat(len(PHASES))
        bias = self.bias.repeat(len(PHASES))
        y = ops.conv2d(x, weight, bias, padding=(1, 1, 1, 1), slopes=each)
        y = y.view(n, height + 1, width + 1, STRIDE, STRIDE, self.channels)
        for a, b in PHASES:
            out[:, :, a, :, b] = y[:, a : a + height, b : b + width, a, b]
        return out.view(n, STRIDE * height, STRIDE * width, self.channels)
