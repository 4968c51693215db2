"""What BigGAN-deep is made of: layers whose spectral norm is folded at load, batch norm with
statistics for each truncation, attention over pooled keys.

Batch norm and its ReLU are the prologue of the convolution after them. What no op does is plain
torch here: max pooling.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ... import ops
from ...layers import Conv2d, Linear
from .biggan_config import BLOCK_SHARE, QUERY_SHARE, BigGANConfig
from .folding import spectral_weight

#: Statistics of batch norm for a picture: the rows between which its truncation lies, and the share
#: of the first.
Position = tuple[int, int, float]


def position_of(truncation: float, n_stats: int) -> Position:
    """Of a truncation in (0, 1], as pytorch-pretrained-biggan finds it, in float64.

    Where it lies between two rows, the share of the first is what one would expect of the second:
    the published pictures are made so.
    """
    share, row = math.modf(truncation / (1.0 / (n_stats - 1)))
    first = int(row)
    return (first, min(first + 1, n_stats - 1), share) if share else (first, first, 1.0)


class Spectral(nn.Module):
    """A layer whose weight is saved as weight_orig, to be divided by its largest singular value:
    u' W v of the saved weight_u and weight_v. Miyato et al. 2018, arXiv:1802.05957.

    kernel_size 0: of a linear layer. kept: of the outputs, how many are wanted; None: all. normed:
    whether a norm comes before it, which its forward is given.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel_size: int = 0,
        bias: bool = True,
        kept: int | None = None,
        normed: bool = False,
    ):
        super().__init__()
        kernel = (kernel_size, kernel_size) if kernel_size else ()
        self.inputs, self.outputs, self.kernel_size = inputs, outputs, kernel_size
        self.kept = outputs if kept is None else kept
        self.normed = normed
        parameters = {"weight_orig": (outputs, inputs, *kernel), "bias": (outputs,)}
        for name, shape in parameters.items():
            empty = torch.empty(shape, device="meta")
            wanted = bias or name != "bias"
            self.register_parameter(
                name, nn.Parameter(empty, requires_grad=False) if wanted else None
            )
        self.register_buffer("weight_u", torch.empty(outputs, device="meta"))
        self.register_buffer(
            "weight_v", torch.empty(inputs * max(kernel_size, 1) ** 2, device="meta")
        )
        self.layer: Linear | Conv2d | None = None

    def folded(self) -> Tensor:
        """[outputs, ...]: the weight, in the dtype that was loaded."""
        u, v = self.get_buffer("weight_u"), self.get_buffer("weight_v")
        return spectral_weight(self.get_parameter("weight_orig").detach(), u, v)

    def _made(self) -> Linear | Conv2d:
        weight, bias = self.folded()[: self.kept], self.bias
        layer: Linear | Conv2d
        if self.kernel_size <= 1 and not self.normed:  # over C alone, also of pictures
            layer = Linear(self.inputs, self.kept, bias=bias is not None)
            weight = weight.flatten(1)
        else:
            side = self.kernel_size
            layer = Conv2d(self.inputs, self.kept, side, padding=side // 2)
        layer.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        if isinstance(bias, Tensor):
            kept = bias.detach()[: self.kept].clone()
            layer.bias = nn.Parameter(kept, requires_grad=False)
        layer.pack()
        return layer

    def pack(self) -> None:
        if self.layer is None:
            self.layer = self._made()
            for name in ("weight_orig", "bias", "weight_u", "weight_v"):
                delattr(self, name)

    def forward(self, x: Tensor, **around: object) -> Tensor:
        """around: as the layer takes it, ops.linear's or ops.conv2d's."""
        layer = self._made() if self.layer is None else self.layer
        made: Tensor = layer(x, **around)
        return made


class BatchNorm(nn.Module):
    """Batch norm by statistics that go with a truncation, and ReLU: the prologue of a convolution.

    conditional: its scale and offset are products of the latents and the class.
    """

    def __init__(self, c: BigGANConfig, channels: int, conditional: bool = True):
        super().__init__()
        self.eps = c.eps
        for name in ("running_means", "running_vars"):
            self.register_buffer(name, torch.empty(c.n_stats, channels, device="meta"))
        self.conditional = conditional
        if conditional:
            self.scale = Spectral(2 * c.z_dim, channels, bias=False)
            self.offset = Spectral(2 * c.z_dim, channels, bias=False)
        else:
            for name in ("weight", "bias"):
                empty = torch.empty(channels, device="meta")
                self.register_parameter(name, nn.Parameter(empty, requires_grad=False))

    def _statistics(self, name: str, positions: Sequence[Position]) -> Tensor:
        """[N, channels] float32: each picture's own."""
        table = self.get_buffer(name).float()
        rows = [
            table[first] if first == second else table[first] * share + table[second] * (1 - share)
            for first, second, share in positions
        ]
        return torch.stack(rows)

    def forward(self, condition: Tensor, positions: Sequence[Position]) -> dict[str, Any]:
        """max(x * scale + shift, 0) of x [N, H, W, C], as ops.conv2d takes it: {"scale", "shift",
        "input_activation"}, the first two [N, C] float32.
        """
        mean = self._statistics("running_means", positions)
        inverse = torch.rsqrt(self._statistics("running_vars", positions) + self.eps)
        if self.conditional:
            weight, bias = 1 + self.scale(condition).float(), self.offset(condition).float()
        else:
            weight, bias = self.get_parameter("weight").float(), self.get_parameter("bias").float()
        scale = inverse * weight
        shift = bias - mean * scale
        return {"scale": scale, "shift": shift, "input_activation": "relu"}


class Attention(nn.Module):
    """Of every pixel to the largest of each four pixels. Zhang et al. 2018, arXiv:1805.08318."""

    def __init__(self, channels: int):
        super().__init__()
        self.snconv1x1_theta = Spectral(channels, channels // QUERY_SHARE, 1, bias=False)
        self.snconv1x1_phi = Spectral(channels, channels // QUERY_SHARE, 1, bias=False)
        self.snconv1x1_g = Spectral(channels, channels // 2, 1, bias=False)
        self.snconv1x1_o_conv = Spectral(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.empty(1, device="meta"), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        queries = self.snconv1x1_theta(x).flatten(1, 2)
        keys = max_pool(self.snconv1x1_phi(x)).flatten(1, 2)
        values = max_pool(self.snconv1x1_g(x)).flatten(1, 2)
        y = ops.attention(queries, keys, values, 1, scale=1.0)
        y = self.snconv1x1_o_conv(y.view(*x.shape[:3], -1))
        return torch.addcmul(x, y, self.gamma.to(x.dtype))


class Block(nn.Module):
    """A residual block that narrows to a quarter; the skip keeps the first channels."""

    def __init__(self, c: BigGANConfig, up: bool, inputs: int, outputs: int):
        super().__init__()
        self.up, self.outputs = up, outputs
        inner = inputs // BLOCK_SHARE
        self.bn_0 = BatchNorm(c, inputs)
        self.conv_0 = Spectral(inputs, inner, 1, normed=True)
        self.bn_1 = BatchNorm(c, inner)
        self.conv_1 = Spectral(inner, inner, 3, normed=True)
        self.bn_2 = BatchNorm(c, inner)
        self.conv_2 = Spectral(inner, inner, 3, normed=True)
        self.bn_3 = BatchNorm(c, inner)
        self.conv_3 = Spectral(inner, outputs, 1, normed=True)

    def forward(self, x: Tensor, condition: Tensor, positions: Sequence[Position]) -> Tensor:
        y = self.conv_0(x, **self.bn_0(condition, positions))
        y = self.conv_1(y, **self.bn_1(condition, positions), upsample=self.up)
        y = self.conv_2(y, **self.bn_2(condition, positions))
        skip = x[..., : self.outputs]
        if self.up:
            skip = skip.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
        norm = self.bn_3(condition, positions)
        made: Tensor = self.conv_3(y, **norm, residual=skip.contiguous())
        return made


def max_pool(x: Tensor) -> Tensor:
    """[N, H, W, C] -> [N, H / 2, W / 2, C], the largest of four."""
    n, height, width, channels = x.shape
    return x.view(n, height // 2, 2, width // 2, 2, channels).amax(dim=(2, 4))
