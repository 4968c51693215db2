"""Transposed convolution of stride 2 by one ordinary convolution, and what no op does after it.

With a 4x4 kernel, stride 2 and padding 1, output row 2m is the sum of the input's rows m-1 and m
times the kernel's rows 3 and 1, and output row 2m+1 that of rows m and m+1 times rows 2 and 0;
columns alike. Those are four convolutions with 2x2 kernels, over windows that one 2x2 convolution
with padding 1 has all: output row 2m+a takes its window m+a. So one `ops.conv2d` computes the four
side by side in C, and `interleave` (plain torch: it only moves numbers) puts them in their
positions. No product is with a zero that was put between pixels.
"""

import torch
from torch import Tensor, nn

from ... import ops
from ...ops._pack import arranged_filters, ohwi

#: The kernel's side, and how much longer the output's sides are.
KERNEL, STRIDE = 4, 2


class TransposedConv2d(nn.Module):
    """A transposed convolution of [N, H, W, C] pictures to [N, 2H, 2W, out_channels].

    Kernel 4, stride 2, padding 1: torch.nn.ConvTranspose2d's, as DCGAN has it. The weight is saved
    as [in, out, 4, 4].
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.channels = out_channels
        shape = in_channels, out_channels, KERNEL, KERNEL
        self.weight = nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(out_channels, device="meta"), requires_grad=False)
        self.packed = False

    def pack(self) -> None:
        if not self.packed:
            weight, bias = self._of_phases()
            self.weight = nn.Parameter(arranged_filters(weight), requires_grad=False)
            self.bias = nn.Parameter(bias, requires_grad=False)
            self.packed = True

    def _of_phases(self) -> tuple[Tensor, Tensor]:
        """([4 * out, in, 2, 2], [4 * out]): the phases (a, b) one after the other."""
        weight = self.weight.detach().transpose(0, 1)
        taps = ((3, 1), (2, 0))  # rows of the kernel for output rows 2m and 2m + 1
        rows = [weight[:, :, list(a)][:, :, :, list(b)] for a in taps for b in taps]
        return torch.cat(rows), self.bias.detach().repeat(STRIDE**2)

    def forward(self, x: Tensor, relu: bool = False) -> Tensor:
        """relu: max(y, 0) of the result."""
        weight, bias = (self.weight, self.bias) if self.packed else self._of_phases()
        y = ops.conv2d(x, weight if self.packed else ohwi(weight), bias, padding=(1, 1, 1, 1))
        return interleave(y, self.channels, relu)


def interleave(y: Tensor, channels: int, relu: bool = False) -> Tensor:
    """[N, H + 1, W + 1, 4 * channels] -> [N, 2H, 2W, channels]; relu: max(y, 0) on the way."""
    n, height, width = y.shape[0], y.shape[1] - 1, y.shape[2] - 1
    phases = y.view(n, height + 1, width + 1, STRIDE, STRIDE, channels)
    out = y.new_empty(n, height, STRIDE, width, STRIDE, channels)
    for a in range(STRIDE):
        for b in range(STRIDE):
            out[:, :, a, :, b] = phases[:, a : a + height, b : b + width, a, b]
    out = out.view(n, STRIDE * height, STRIDE * width, channels)
    return out.relu_() if relu else out
