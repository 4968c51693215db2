"""Transposed convolution of stride 2.

With a 4x4 kernel, stride 2 and padding 1, output row 2m is the sum of the input's rows m-1 and m
times the kernel's rows 3 and 1, and output row 2m+1 that of rows m and m+1 times rows 2 and 0;
columns alike. Those are four convolutions with 2x2 kernels: conv2d's kernel computes them so, and
no product is with a zero that was put between pixels.
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
        self.weight: nn.Parameter | None = nn.Parameter(
            torch.empty(shape, device="meta"), requires_grad=False
        )
        self.bias = nn.Parameter(torch.empty(out_channels, device="meta"), requires_grad=False)
        self.packed: nn.Parameter | None = None
        #: Of a PReLU that is a ReLU.
        self.zeros: Tensor | None
        self.register_buffer("zeros", None, persistent=False)

    def pack(self) -> None:
        if self.weight is not None:
            arranged = arranged_filters(self.weight.detach().transpose(0, 1).contiguous())
            self.packed = nn.Parameter(arranged, requires_grad=False)
            self.weight = None
            self.zeros = torch.zeros(self.channels, device=arranged.device)

    def forward(self, x: Tensor, relu: bool = False, input_activation: str = "none") -> Tensor:
        """relu: max(y, 0) of the result. input_activation: of x, as ops.conv2d has it."""
        if self.weight is not None:
            weight = ohwi(self.weight.detach().transpose(0, 1).contiguous())
        else:
            assert self.packed is not None  # by then
            weight = self.packed
        slopes = self.zeros if relu else None
        if relu and slopes is None:
            slopes = torch.zeros(self.channels, device=x.device)
        return ops.conv2d(
            x,
            weight,
            self.bias,
            stride=STRIDE,
            padding=(1, 1, 1, 1),
            slopes=slopes,
            input_activation=input_activation,
            transposed=True,
        )
